//! `ddpm data`.

use crate::ddpm::{ddpm, fail, object, succeed};
use std::path::Path;

fn fixtures(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/fixtures/sources");
    folder.join(name).display().to_string()
}

#[test]
fn a_data_set_is_described_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let sheet = dir.path().join("sheet.png");
    let output = ddpm(&["data", "info", &format!("lmdb:{}", fixtures("lsun")), "--json", "--sheet"])
        .arg(&sheet)
        .output()
        .unwrap();
    let report = object(&output);
    assert_eq!(report["images"], 48);
    assert_eq!(report["shape"], serde_json::json!([30, 36, 3]));
    assert_eq!(report["unreadable"], 0);
    // 48 images, in rows of 7 with gaps of 2 pixels.
    let picture = image::open(&sheet).unwrap();
    assert_eq!((picture.width(), picture.height()), (7 * 38 - 2, 7 * 32 - 2));
    let words =
        succeed(&mut ddpm(&["data", "info", &format!("zip:{}", fixtures("dataset.zip")), "--size", "8"]));
    assert!(words.contains("5, 8x8x3 each") && words.contains("classes    5, with 1 to 1"), "{words}");
}

#[test]
fn images_of_several_sizes_are_described_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    std::fs::create_dir(&images).unwrap();
    for (name, width, height) in [("a", 30, 20), ("b", 25, 60)] {
        image::RgbImage::new(width, height).save(images.join(format!("{name}.png"))).unwrap();
    }
    let sheet = dir.path().join("sheet.png");
    let spec = format!("images:{}", images.display());
    let words = succeed(ddpm(&["data", "info", &spec, "--sheet"]).arg(&sheet));
    assert!(
        words.contains("20 to 60 high, 25 to 30 wide, 3 channels") && !words.contains("unreadable"),
        "{words}"
    );
    let picture = image::open(&sheet).unwrap();
    assert_eq!((picture.width(), picture.height()), (2 * 20 + 2, 20));
    let report = object(&ddpm(&["data", "info", &spec, "--json"]).output().unwrap());
    assert_eq!(
        (&report["shape"], &report["heights"]),
        (&serde_json::Value::Null, &serde_json::json!([20, 60]))
    );
}

#[test]
fn bad_images_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let spec = format!("tfrecord:{}", fixtures("stylegan-r03.tfrecords"));
    assert!(succeed(&mut ddpm(&["data", "verify", &spec])).contains("all 5 images are good"));
    let bad = dir.path().join("bad.tfrecords");
    let mut bytes = std::fs::read(fixtures("stylegan-r03.tfrecords")).unwrap();
    let second = bytes.len() / 5 + 100;
    bytes[second] ^= 1;
    std::fs::write(&bad, bytes).unwrap();
    let spec = format!("tfrecord:{}", bad.display());
    fail(&mut ddpm(&["data", "verify", &spec]), 2, &["bad.tfrecords", "1 of 5", "image 1", "CRC"]);
    let quiet = fail(&mut ddpm(&["data", "verify", "-q", &spec]), 2, &["1 of 5", "image 1", "CRC"]);
    assert!(!quiet.contains("verifying"), "{quiet}");
    let report = object(&ddpm(&["data", "verify", &spec, "--json"]).output().unwrap());
    assert_eq!((&report["good"], &report["bad_images"][0]["image"]), (&4.into(), &1.into()));
}

#[test]
fn a_bit_that_changed_in_an_array_of_images_is_noticed_where_all_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(fixtures("stored.npz")).unwrap();
    let spec = format!("npz:{}", dir.path().join("flipped.npz").display());
    std::fs::write(dir.path().join("flipped.npz"), &bytes).unwrap();
    assert!(succeed(&mut ddpm(&["data", "verify", &spec])).contains("all 3 images are good"));
    // A pixel.
    bytes[5000] ^= 1;
    std::fs::write(dir.path().join("flipped.npz"), bytes).unwrap();
    fail(&mut ddpm(&["data", "verify", &spec]), 2, &["flipped.npz/arr_0", "CRC"]);
    let report = object(&ddpm(&["data", "verify", &spec, "--json"]).output().unwrap());
    assert!(report["checksum_error"].as_str().is_some_and(|said| said.contains("CRC")), "{report}");
    let target = dir.path().join("copy");
    let mut convert = ddpm(&["data", "convert", &spec, &format!("images:{}", target.display())]);
    fail(&mut convert, 2, &["flipped.npz/arr_0", "CRC"]);
    assert!(!target.exists());
}

#[test]
fn a_set_goes_round_through_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let place = |kind: &str| format!("{kind}:{}", dir.path().join(format!("as-{kind}")).display());
    let mut last = format!("parquet:{}", fixtures("hub"));
    for kind in ["lmdb", "tar", "tfrecord", "images", "npz"] {
        let words = succeed(&mut ddpm(&["data", "convert", &last, &place(kind)]));
        assert!(words.contains("12 images of 30x36x3"), "{words}");
        last = place(kind);
    }
    let report = |spec: &str| object(&ddpm(&["data", "info", spec, "--json"]).output().unwrap());
    let (first, last) = (report(&format!("parquet:{}", fixtures("hub"))), report(&last));
    assert_eq!((&first["mean"], &first["std"]), (&last["mean"], &last["std"]));
    fail(&mut ddpm(&["data", "convert", &place("npz"), &place("tar")]), 2, &["as-tar", "exists already"]);
    fail(&mut ddpm(&["data", "convert", &place("npz"), "parquet:x"]), 2, &["parquet cannot be written"]);
}

#[test]
fn what_cannot_be_is_refused() {
    fail(&mut ddpm(&["data", "info", "lsun:x"]), 2, &["no kind of source called `lsun`", "lmdb:DIR"]);
    fail(&mut ddpm(&["data", "info", "lmdb:nowhere"]), 2, &["nowhere"]);
    fail(&mut ddpm(&["data", "fetch", "imagenet"]), 2, &["imagenet", "cifar10"]);
    let listed = succeed(&mut ddpm(&["data", "list"]));
    for word in ["lmdb:DIR", "parquet:", "tfrecord:PATH", "inception"] {
        assert!(listed.contains(word), "{word}: {listed}");
    }
}

#[test]
fn files_are_fetched_from_a_mirror_and_checked() {
    // Whatever this server sends, it is not MNIST: nothing gets its name, and the message says why.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let len = stream.read(&mut request).unwrap();
        assert!(String::from_utf8_lossy(&request[..len]).starts_with("GET /train-images-idx3-ubyte.gz "));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops").unwrap();
    });
    let dir = tempfile::tempdir().unwrap();
    let mut command = ddpm(&["data", "fetch", "mnist", "--from", &base, "--out"]);
    command.arg(dir.path()).env_remove("http_proxy").env_remove("HTTP_PROXY");
    fail(&mut command, 1, &["train-images-idx3-ubyte.gz", "4 bytes instead of 9912422"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
