//! Progressive files of compressed images, whole and cut, decoded with a denoiser in closed form.
#![no_main]

use codec::CodecError;
use codec::progressive::{Extent, Reconstruction, decode};
use ddpm_fuzz::coded::{patience, repair, with_model};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    with_model(|model| {
        let repaired = repair(bytes, model.identity(), false);
        let how = [Reconstruction::XStart, Reconstruction::Flow { steps: 3 }][bytes.len() % 2];
        for (bytes, extent) in [
            (bytes, Extent::Whole),
            (bytes, Extent::Prefix),
            (&repaired, Extent::Whole),
            (&repaired, Extent::Prefix),
        ] {
            let mut next = 0;
            let take = &mut |number: usize, image: &[f32]| {
                assert_eq!(number, next);
                next += 1;
                assert!(image.iter().all(|x| x.abs() <= 1.0));
                Ok(())
            };
            match decode(model, bytes, extent, how, &mut patience(), take) {
                Ok(decoded) => assert_eq!(decoded.images, next),
                Err(CodecError::Stopped) => {}
                Err(error) => assert!(error.is_input(), "{error}"),
            }
        }
    });
});
