//! What `ddpm data fetch` can fetch: files with addresses that have been stable for years.

use eval::inception_weights;

/// How a file is told from a damaged one.
#[derive(Clone, Copy, Debug)]
pub enum Checksum {
    /// SHA-256, in hexadecimal digits.
    Sha256(&'static str),
    /// MD5, where nothing better has been published.
    Md5(&'static str),
}

/// One file.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Its name.
    pub name: &'static str,
    /// What stands before the name in its address.
    pub base: &'static str,
    /// Its length; `None` where only the checksum is known.
    pub bytes: Option<u64>,
    /// Its checksum.
    pub checksum: Checksum,
}

/// What is fetched together.
#[derive(Debug)]
pub struct Published {
    /// What it is called.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// The kind of source that reads it; none for weights, which are looked for in the cache.
    pub kind: Option<&'static str>,
    /// Its files.
    pub files: &'static [File],
}

impl Published {
    /// Bytes of all files, about.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes.unwrap_or(INCEPTION_BYTES)).sum()
    }
}

/// About the length of the Inception weights.
const INCEPTION_BYTES: u64 = 95_600_000;
const MNIST_BASE: &str = "https://ossci-datasets.s3.amazonaws.com/mnist/";

const fn mnist(name: &'static str, bytes: u64, md5: &'static str) -> File {
    File { name, base: MNIST_BASE, bytes: Some(bytes), checksum: Checksum::Md5(md5) }
}

/// All that can be fetched.
pub static PUBLISHED: &[Published] = &[
    Published {
        name: "cifar10",
        about: "CIFAR-10, binary version (Krizhevsky 2009)",
        kind: Some("cifar10"),
        files: &[File {
            name: "cifar-10-binary.tar.gz",
            base: "https://www.cs.toronto.edu/~kriz/",
            bytes: Some(170_052_171),
            checksum: Checksum::Sha256("c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
        }],
    },
    Published {
        name: "mnist",
        about: "MNIST (LeCun, Cortes, Burges)",
        kind: Some("mnist"),
        files: &[
            mnist("train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            mnist("train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
            mnist("t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
            mnist("t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
        ],
    },
    Published {
        name: "inception",
        about: "weights of the Inception network of FID and Inception Score",
        kind: None,
        files: &[File {
            name: inception_weights::FILE_NAME,
            base: "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/",
            bytes: None,
            checksum: Checksum::Sha256(inception_weights::PUBLISHED_SHA256),
        }],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_checksums_have_their_form() {
        for set in PUBLISHED {
            for file in set.files {
                let (digits, len) = match file.checksum {
                    Checksum::Sha256(digits) => (digits, 64),
                    Checksum::Md5(digits) => (digits, 32),
                };
                assert!(
                    digits.len() == len && digits.bytes().all(|b| b.is_ascii_hexdigit()),
                    "{}",
                    file.name
                );
                assert!(file.base.starts_with("https://") && file.base.ends_with('/'));
            }
        }
        let inception = PUBLISHED.iter().find(|set| set.name == "inception").unwrap();
        let [file] = inception.files else { panic!() };
        assert_eq!(format!("{}{}", file.base, file.name), inception_weights::URL);
    }
}
