//! Lossless files of compressed images, decoded with a denoiser in closed form.
#![no_main]

use codec::CodecError;
use codec::lossless::decode;
use ddpm_fuzz::coded::{patience, repair, with_model};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    with_model(|model| {
        let repaired = repair(bytes, model.identity(), true);
        for bytes in [bytes, &repaired] {
            let mut taken = 0;
            let take = &mut |_: usize, _: &[u8]| {
                taken += 1;
                Ok(())
            };
            match decode(model, bytes, &mut patience(), take) {
                Ok(images) => assert_eq!(images, taken),
                Err(CodecError::Stopped) => {}
                Err(error) => assert!(error.is_input(), "{error}"),
            }
        }
    });
});
