//! What can go wrong, and what to do about it.

use diffusion::DiffusionError;
use engine::ImageShape;

/// Why images could not be coded, or a file not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes are of something else.
    #[error("not a file of compressed images: it does not begin with the format's two bytes")]
    NotAFile,
    /// The file is of another version of the format.
    #[error(
        "the file has version {found} of the format, this program reads version {known}: use the program it was written by"
    )]
    Version {
        /// The file's.
        found: u8,
        /// The one that is known.
        known: u8,
    },
    /// The file ends in the middle of what cannot be done without.
    #[error("the file ends after {found} bytes, inside its header: nothing can be decoded from it")]
    HeaderCut {
        /// Bytes there are.
        found: usize,
    },
    /// A header that no encoder writes, or whose check does not hold.
    #[error("the file's header is damaged: {0}")]
    HeaderDamaged(&'static str),
    /// A lossless file where a progressive one is needed, or the other way round.
    #[error("the file holds lossless images where progressive ones are needed, or the other way round")]
    OtherKind,
    /// The file ends before the steps that its header announces. Flipped bits, too, can lead a reader to its end
    /// too soon, and no length is in the header.
    #[error("the file is cut off, or damaged: {found} of its {expected} coded steps are there")]
    Truncated {
        /// Whole steps there are.
        found: usize,
        /// Steps there should be.
        expected: usize,
    },
    /// More bytes than the header says.
    #[error(
        "{extra} bytes follow the end of the compressed images: the file is damaged, or something was appended to it"
    )]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// The checksum does not hold.
    #[error("the file is damaged: its checksum does not hold")]
    Checksum,
    /// The coded images make no sense, though the checksum holds.
    #[error(
        "the file's coded images cannot be decoded, though its checksum holds: it was not written by this codec"
    )]
    Body,
    /// The file was made with another model.
    #[error(
        "the file was made with another model, of identity {in_file:08x}; this one is {given:08x}: give the model it was made with"
    )]
    WrongModel {
        /// The identity in the file.
        in_file: u32,
        /// That of the model at hand.
        given: u32,
    },
    /// The file was made with this model, computed another way, whose last bits differ.
    #[error(
        "the file was made with the model computed in way {in_file}, here it is in way {given}: no image could be decoded; \
         make the model in the way that `Header::read` finds in the file"
    )]
    OtherVariant {
        /// [`Header::variant`](crate::Header::variant) in the file.
        in_file: u8,
        /// That of the model at hand.
        given: u8,
    },
    /// The model cannot be used for coding.
    #[error("{0}")]
    Model(String),
    /// What is asked for is out of range.
    #[error("{0}")]
    Request(String),
    /// The images are not the network's.
    #[error("{found} numbers are not 1 to {most} images of {image}, what the network is for")]
    Images {
        /// Numbers there are.
        found: usize,
        /// Images of a file, at most.
        most: usize,
        /// The network's.
        image: ImageShape,
    },
    /// The work was stopped from outside.
    #[error("stopped")]
    Stopped,
    /// The network failed.
    #[error(transparent)]
    Diffusion(#[from] DiffusionError),
}

impl CodecError {
    /// Whether the call or the file is at fault, rather than the work.
    pub fn is_input(&self) -> bool {
        !matches!(self, Self::Diffusion(_) | Self::Stopped)
    }
}
