//! Folders of images.

use crate::files::{fixtures, message, open_as_stored, open_with, read};
use data::image_folder::ImageFolder;
use data::{ImageOptions, ImageSource, ResizeFilter};
use engine::ImageShape;
use image::{ImageBuffer, Luma, Rgb, RgbImage, Rgba};
use std::fs;
use std::path::Path;

fn solid(path: &Path, width: u32, height: u32, colour: [u8; 3]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(width, height, Rgb(colour)).save(path).unwrap();
}

/// Every fixture image equals what Pillow makes of it: exactly where decoding is exact, closely where it is lossy.
#[test]
fn formats_and_colour_types_are_read_as_pillow_reads_them() {
    let folder =
        ImageFolder::open(&fixtures("images"), &ImageOptions { size: Some(18), ..Default::default() })
            .unwrap();
    let mut seen = 0;
    for file in folder.files().iter().filter(|file| !file.to_str().unwrap().contains("opaque")) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let wanted = fixtures("images/opaque").join(format!("{name}.png"));
        for channels in [1, 3] {
            let options = ImageOptions { channels: Some(channels), ..Default::default() };
            let load = |path: &Path| {
                let source = ImageFolder::open(path, &options).unwrap();
                (source.shape(), read(&source, 0).unwrap())
            };
            let ((shape, ours), (wanted_shape, theirs)) = (load(file), load(&wanted));
            assert_eq!(shape, wanted_shape, "{name}");
            // Decoders may differ in how they interpolate the halved chroma.
            let lossy = ["jpg", "jpeg", "JPG"].iter().any(|end| name.ends_with(end));
            let worst = ours.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(worst <= if lossy { 8 } else { 0 }, "{name} differs by {worst}");
            let mean = ours.iter().zip(&theirs).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>()
                / ours.len() as f64;
            assert!(mean <= 1.0, "{name} differs by {mean} in the mean");
        }
        seen += 1;
    }
    assert_eq!(seen, 20);
}

#[test]
fn an_image_is_turned_by_its_exif_orientation() {
    let shape = |name: &str| {
        open_as_stored(&format!("images:{}", fixtures("images").join(name).display())).unwrap().shape()
    };
    assert_eq!(shape("rgb.jpg"), ImageShape::new(18, 24, 3));
    assert_eq!(shape("turned.jpg"), ImageShape::new(24, 18, 3));
}

#[test]
fn sixteen_bits_are_reduced_by_rounding_and_transparency_lies_on_white() {
    let dir = tempfile::tempdir().unwrap();
    let gray: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_fn(2, 1, |x, _| Luma([[128, 129][x as usize]]));
    gray.save(dir.path().join("a.png")).unwrap();
    let deep: ImageBuffer<Rgba<u16>, _> = ImageBuffer::from_fn(2, 1, |x, _| match x {
        0 => Rgba([65535, 0, 257 * 7, 65535]),
        _ => Rgba([0, 0, 65535, 0]),
    });
    deep.save(dir.path().join("b.png")).unwrap();
    let source = open_as_stored(&format!("images:{}", dir.path().display())).unwrap();
    assert_eq!(read(&*source, 0).unwrap(), [0, 0, 0, 1, 1, 1]);
    assert_eq!(read(&*source, 1).unwrap(), [255, 0, 7, 255, 255, 255]);
}

#[test]
fn resizing_agrees_with_pillow() {
    let source = fixtures("resize").join("source.png");
    for (filter, sizes) in
        [(ResizeFilter::Lanczos, &[8, 17, 32, 75][..]), (ResizeFilter::Area, &[8, 16, 24, 48, 96])]
    {
        for &size in sizes {
            let options = ImageOptions { size: Some(size), filter, ..Default::default() };
            let ours =
                read(&*open_with(&format!("images:{}", source.display()), options).unwrap(), 0).unwrap();
            let theirs =
                image::open(fixtures("resize").join(format!("{filter}_{size}.png"))).unwrap().into_rgb8();
            assert_eq!(ours.len(), theirs.len());
            let worst = ours.iter().zip(theirs.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert_eq!(worst, 0, "{filter} to {size}");
        }
    }
}

#[test]
fn nested_files_come_in_the_order_of_their_paths_and_others_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let images = ["b/2.png", "a.png", "b/10.bmp", "c/d/e.PNG"];
    let hidden = ["b/.hidden.png", "._a.png", ".thumbnails/x.png", "c/.git/y.png"];
    for (level, name) in images.iter().chain(&hidden).enumerate() {
        solid(&dir.path().join(name), 4, 4, [level as u8; 3]);
    }
    fs::write(dir.path().join("notes.txt"), "x").unwrap();
    let source = open_with(
        &format!("images:{}", dir.path().display()),
        ImageOptions { size: Some(4), channels: Some(1), ..Default::default() },
    )
    .unwrap();
    let firsts: Vec<u8> = (0..source.len()).map(|index| read(&*source, index).unwrap()[0]).collect();
    assert_eq!(firsts, [1, 2, 0, 3]);
    let text = source.description();
    for part in
        ["4 images", "1 other files ignored", "resized to 4x4 (area)", "on white", "16 bits", "to gray"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_file_that_is_no_image_is_named_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    solid(&dir.path().join("1.png"), 8, 8, [1; 3]);
    fs::write(dir.path().join("2.jpg"), "<html>not found</html>").unwrap();
    fs::write(dir.path().join("3.png"), "").unwrap();
    let good = fs::read(dir.path().join("1.png")).unwrap();
    fs::write(dir.path().join("4.png"), &good[..good.len() - 20]).unwrap();
    // A PNG under another name is read for what it is.
    fs::write(dir.path().join("5.jpg"), &good).unwrap();
    let options = ImageOptions { size: Some(8), ..Default::default() };
    let source = open_with(&format!("images:{}", dir.path().display()), options).unwrap();
    assert!(read(&*source, 0).is_ok() && read(&*source, 4).is_ok());
    for (index, name) in [(1, "2.jpg"), (2, "3.png"), (3, "4.png")] {
        let text = message(read(&*source, index));
        assert!(text.contains(name) && text.contains("get it again"), "{text}");
    }
}

#[test]
fn the_picture_of_all_samples_is_no_sample() {
    let dir = tempfile::tempdir().unwrap();
    for (name, size) in [("000000.png", 4), ("000001.png", 4), ("grid.png", 4)] {
        solid(&dir.path().join(name), size, size, [1; 3]);
    }
    let images = format!("images:{}", dir.path().display());
    assert_eq!(open_as_stored(&images).unwrap().len(), 3);
    fs::write(dir.path().join("samples.json"), "{}").unwrap();
    assert_eq!(open_as_stored(&images).unwrap().len(), 2);
}

#[cfg(unix)]
#[test]
fn links_are_followed_once_and_those_that_lead_nowhere_are_named_if_called_images() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    solid(&folder.join("1.png"), 4, 4, [1; 3]);
    solid(&dir.path().join("2.png"), 4, 4, [2; 3]);
    symlink("../2.png", folder.join("link.png")).unwrap();
    symlink(".", folder.join("loop")).unwrap();
    symlink("nobody@nowhere", folder.join(".#notes.txt")).unwrap();
    symlink("nowhere", folder.join("gone.txt")).unwrap();
    let images = format!("images:{}", folder.display());
    let source = open_as_stored(&images).unwrap();
    assert_eq!(source.len(), 2);
    assert_eq!(read(&*source, 1).unwrap()[0], 2);
    symlink("nowhere.png", folder.join("gone.png")).unwrap();
    let text = message(open_as_stored(&images));
    assert!(text.contains("gone.png") && text.contains("leads nowhere") && text.contains("remove"), "{text}");
}

#[test]
fn the_size_is_that_of_the_first_image_that_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let images = format!("images:{}", dir.path().display());
    fs::write(dir.path().join("1.png"), "").unwrap();
    // A logical screen of no pixels.
    let empty = b"GIF89a\0\0\x08\0\0\0\0,\0\0\0\0\x08\0\x08\0\0";
    fs::write(dir.path().join("2.gif"), empty).unwrap();
    let text = message(open_as_stored(&images));
    assert!(text.contains("1.png"), "{text}");
    solid(&dir.path().join("3.png"), 6, 4, [1; 3]);
    let source = open_as_stored(&images).unwrap();
    assert_eq!(source.shape(), ImageShape::new(4, 6, 3));
    assert!(read(&*source, 0).is_err() && read(&*source, 1).is_err() && read(&*source, 2).is_ok());
}

#[test]
fn without_a_size_all_images_must_have_the_first_ones() {
    let dir = tempfile::tempdir().unwrap();
    solid(&dir.path().join("1.png"), 6, 4, [1; 3]);
    solid(&dir.path().join("2.png"), 4, 6, [1; 3]);
    let source = open_as_stored(&format!("images:{}", dir.path().display())).unwrap();
    assert_eq!(source.shape(), ImageShape::new(4, 6, 3));
    assert!(read(&*source, 0).is_ok());
    let text = message(read(&*source, 1));
    assert!(text.contains("2.png") && text.contains("6x4") && text.contains("give an image size"), "{text}");
}

#[test]
fn folders_without_images_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let spec = format!("images:{}", dir.path().display());
    assert!(message(open_as_stored(&spec)).contains("no image"));
    assert!(message(open_as_stored("images:no/such/folder")).contains("no/such/folder"));
}

/// The decoder itself would fill with gray what is missing of a JPEG.
#[test]
fn a_jpeg_that_ends_early_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.jpg");
    let read_it = || open_as_stored(&format!("images:{}", path.display())).and_then(|s| read(&*s, 0));
    for name in ["rgb.jpg", "gray.jpeg", "cmyk.jpg", "turned.jpg", "progressive.JPG"] {
        let whole = fs::read(fixtures("images").join(name)).unwrap();
        fs::write(&path, &whole).unwrap();
        let pixels = read_it().unwrap();
        fs::write(&path, [&whole[..], b"\xff what some camera appends \0"].concat()).unwrap();
        assert_eq!(read_it().unwrap(), pixels, "{name}");

        let scan = whole.windows(2).position(|bytes| bytes == [0xff, 0xda]).unwrap();
        for len in (scan..whole.len()).step_by(10).chain([whole.len() - 1, whole.len() - 2]) {
            fs::write(&path, &whole[..len]).unwrap();
            let said = message(read_it());
            assert!(said.contains("cut.jpg"), "{name} cut to {len}: {said}");
            // What the header lacks the decoder notices when the size is asked for, in words of its own.
            let in_content = said.contains("it ends in the middle of its content");
            assert!(in_content || len < scan + 16, "{name} cut to {len}: {said}");
        }
        // A download that stopped in a file that was given its length beforehand.
        let mut zeros = whole.clone();
        let half = (scan + whole.len()) / 2;
        zeros[half..].fill(0);
        fs::write(&path, &zeros).unwrap();
        assert!(message(read_it()).contains("cut.jpg: it ends in the middle"), "{name}");
    }
}
