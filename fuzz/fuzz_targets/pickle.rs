//! Pickles of plain values.
#![no_main]

use pickle::{Rules, Value};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let rules = Rules { callables: &["collections OrderedDict"], max_values: 1 << 16 };
    let Ok((pickle, end)) = pickle::read(bytes, &rules) else { return };
    assert!(end <= bytes.len());
    let root = pickle.root();
    for (key, value) in pickle.entries(root).unwrap_or_default() {
        if let Some(text) = pickle.text(key) {
            assert!(pickle.entry(root, text).is_some());
        }
        let _ = (pickle.sizes(value), pickle.long(value), pickle.bytes(value));
        if let Value::Call { name, .. } = pickle.value(value) {
            assert!(rules.callables.contains(&name.as_str()));
        }
    }
});
