//! The calls of NVIDIA's libraries without any of them: the tests of this file run once more in a process that finds
//! `fake_nvidia.cpp` under the libraries' names.

use std::path::Path;
use std::process::Command;

const NAMES: [&str; 4] = ["libcuda.so.1", "libnvrtc.so", "libcublasLt.so", "libcudnn.so"];
/// What a kernel or product may be called for is tested elsewhere; here it is how devices are used.
const TESTS: [&str; 5] =
    ["linear_maps", "attention", "random_numbers", "large_tensors", "training_goes_the_same_way"];

#[test]
fn libraries_are_called_as_they_want_to_be() {
    if std::env::var_os("DDPM_TEST_CUDA").is_some() {
        return println!("SKIPPED: there is a device, so the libraries are the real ones");
    }
    let folder = tempfile::tempdir().unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = folder.path().join("fake.so");
    let built = Command::new("g++")
        .args(["-std=c++17", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-o"])
        .arg(&library)
        .arg(sources.join("tests/fake_nvidia/fake_nvidia.cpp"))
        .output();
    match built {
        Err(error) => return println!("SKIPPED, no g++: {error}"),
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
    }
    for name in NAMES {
        std::os::unix::fs::symlink(&library, folder.path().join(name)).unwrap();
    }
    std::fs::copy(sources.join("src/cuda/emulation.h"), folder.path().join("emulation.h")).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(TESTS)
        .args(["--test-threads=1", "--nocapture"])
        .envs([
            ("LD_LIBRARY_PATH", folder.path()),
            ("DDPM_CUDA_LIBRARIES", folder.path()),
            ("FAKE_NVIDIA", folder.path()),
        ])
        .env("DDPM_TEST_CUDA", "1")
        .output()
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A name that is no test's any more would run none.
    let all = format!("test result: ok. {} passed", TESTS.len());
    assert!(output.status.success() && said.contains(&all), "{said}");
    println!("{said}");
}
