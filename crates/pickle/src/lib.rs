//! A reader of Python pickles that hold plain values, for formats that are made of them (CIFAR-10's batches,
//! PyTorch's checkpoints).
//!
//! A pickle is a program for a stack machine that can call any function. This reader runs the instructions of
//! protocol 2 that dictionaries, lists, tuples, numbers and strings need. Of calls it keeps a note
//! ([`Value::Call`]) and makes none; a call of anything but what the caller expects is an error. Memory is at
//! most in proportion to the input.
//!
//! ```
//! use pickle::{Rules, Value, read};
//! // pickle.dumps({"a": 1}, protocol=2)
//! let bytes = b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s.";
//! let (pickle, length) = read(bytes, &Rules { callables: &[], max_values: 100 })?;
//! assert_eq!(length, bytes.len());
//! let [(key, value)] = pickle.entries(pickle.root()).unwrap()[..] else { panic!() };
//! assert_eq!(pickle.text(key), Some("a"));
//! assert_eq!(pickle.value(value), &Value::Int(1));
//! # Ok::<(), pickle::PickleError>(())
//! ```

#![forbid(unsafe_code)]

mod machine;

use std::ops::Range;

/// The number of a value in its pickle.
pub type Id = u32;

/// A value. Values hold others by number, so that what a hostile file nests deep or shares costs no stack and
/// no copy.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A longer integer: where its bytes (little-endian, two's complement) stand.
    Long(Range<usize>),
    /// A floating-point number.
    Float(f64),
    /// A string of bytes or text: where it stands.
    Bytes(Range<usize>),
    /// A list.
    List(Vec<Id>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A dictionary: keys and values in turn.
    Dict(Vec<Id>),
    /// A function's or class's name, `module name`.
    Global(String),
    /// What a call that was not made would have returned.
    Call {
        /// The function or class, `module name`.
        name: String,
        /// Its arguments.
        arguments: Id,
        /// The state set on the result.
        state: Option<Id>,
        /// Keys and values set on the result, in turn.
        entries: Vec<Id>,
    },
    /// Something kept outside the pickle: what identifies it.
    Persistent(Id),
}

/// What a pickle may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The calls that are noted, as `module name`; all others are errors.
    pub callables: &'a [&'a str],
    /// Most values: one takes far more memory than the one byte that can ask for it.
    pub max_values: usize,
}

/// A pickle that is damaged, hostile, or asks for what is not read here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} (byte {offset} of the pickle)")]
pub struct PickleError {
    /// Where the instruction stands, in bytes from the pickle's start.
    pub offset: usize,
    /// What is wrong.
    pub what: String,
}

/// A pickle, read.
#[derive(Debug)]
pub struct Pickle<'a> {
    bytes: &'a [u8],
    values: Vec<Value>,
    root: Id,
}

/// Reads the pickle of protocol 2 that `bytes` begin with, and says where it ends.
///
/// # Errors
/// If it is truncated or malformed, has instructions that plain values do not need, or breaks the rules.
pub fn read<'a>(bytes: &'a [u8], rules: &Rules) -> Result<(Pickle<'a>, usize), PickleError> {
    let (values, root, end) = machine::run(bytes, rules)?;
    Ok((Pickle { bytes, values, root }, end))
}

impl<'a> Pickle<'a> {
    /// The value that the pickle is.
    pub fn root(&self) -> Id {
        self.root
    }

    /// The value numbered `id`.
    ///
    /// # Panics
    /// If `id` is of another pickle.
    pub fn value(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    /// The keys and values of a dictionary, or of an object that was filled like one.
    pub fn entries(&self, id: Id) -> Option<Vec<(Id, Id)>> {
        match self.value(id) {
            Value::Dict(entries) | Value::Call { entries, .. } => {
                Some(entries.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)).collect())
            }
            _ => None,
        }
    }

    /// What a dictionary holds under `key`.
    pub fn entry(&self, id: Id, key: &str) -> Option<Id> {
        let (Value::Dict(entries) | Value::Call { entries, .. }) = self.value(id) else { return None };
        let mut pairs = entries.as_chunks::<2>().0.iter();
        pairs.find(|[k, _]| self.bytes(*k) == Some(key.as_bytes())).map(|&[_, value]| value)
    }

    /// The items of a tuple.
    pub fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.value(id) {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// Where the bytes of a string stand in the pickle.
    pub fn range(&self, id: Id) -> Option<Range<usize>> {
        match self.value(id) {
            Value::Bytes(range) => Some(range.clone()),
            _ => None,
        }
    }

    /// A string's bytes.
    pub fn bytes(&self, id: Id) -> Option<&'a [u8]> {
        self.range(id).map(|range| &self.bytes[range])
    }

    /// A string that is text.
    pub fn text(&self, id: Id) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(id)?).ok()
    }

    /// The bytes of an integer beyond 64 bits.
    pub fn long(&self, id: Id) -> Option<&'a [u8]> {
        match self.value(id) {
            Value::Long(range) => Some(&self.bytes[range.clone()]),
            _ => None,
        }
    }

    /// A size: an integer that is not negative.
    pub fn size(&self, id: Id) -> Option<usize> {
        match self.value(id) {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    /// A tuple of sizes.
    pub fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        self.tuple(id)?.iter().map(|&item| self.size(item)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules { callables: &["collections OrderedDict", "m f"], max_values: 1 << 16 };

    fn refused(bytes: &[u8]) -> PickleError {
        read(bytes, &RULES).unwrap_err()
    }

    #[test]
    fn plain_values_are_read() {
        // pickle.dumps([None, True, -3, 70000, 2**80, 1.5, "é", (1, 2, 3, 4), {"k": []}], protocol=2)
        let bytes = b"\x80\x02]q\x00(N\x88J\xfd\xff\xff\xffJp\x11\x01\x00\x8a\x0b\x00\x00\x00\x00\x00\x00\x00\x00\
            \x00\x00\x01G?\xf8\x00\x00\x00\x00\x00\x00X\x02\x00\x00\x00\xc3\xa9q\x01(K\x01K\x02K\x03K\x04tq\x02}q\x03\
            X\x01\x00\x00\x00kq\x04]q\x05se.";
        let (pickle, end) = read(bytes, &RULES).unwrap();
        assert_eq!(end, bytes.len());
        let Value::List(items) = pickle.value(pickle.root()) else { panic!() };
        assert_eq!(pickle.value(items[0]), &Value::None);
        assert_eq!(pickle.value(items[1]), &Value::Bool(true));
        assert_eq!(pickle.value(items[2]), &Value::Int(-3));
        assert_eq!(pickle.value(items[3]), &Value::Int(70_000));
        assert_eq!(pickle.long(items[4]), Some(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..]));
        assert_eq!(pickle.value(items[5]), &Value::Float(1.5));
        assert_eq!(pickle.text(items[6]), Some("é"));
        assert_eq!(pickle.sizes(items[7]), Some(vec![1, 2, 3, 4]));
        let inner = pickle.entry(items[8], "k").unwrap();
        assert_eq!(pickle.value(inner), &Value::List(Vec::new()));
    }

    #[test]
    fn an_expected_call_is_noted_with_what_is_set_on_it() {
        // OrderedDict() with an entry and a state, around a persistent reference.
        let bytes = b"\x80\x02ccollections\nOrderedDict\n)RX\x01\x00\x00\x00aK\x07QsK\x01b.";
        let (pickle, _) = read(bytes, &RULES).unwrap();
        let Value::Call { name, state: Some(state), .. } = pickle.value(pickle.root()) else { panic!() };
        assert_eq!((name.as_str(), pickle.value(*state)), ("collections OrderedDict", &Value::Int(1)));
        let entry = pickle.entry(pickle.root(), "a").unwrap();
        let Value::Persistent(reference) = pickle.value(entry) else { panic!() };
        assert_eq!(pickle.size(*reference), Some(7));
    }

    #[test]
    fn nothing_else_is_called() {
        // os.system("…"), by the instructions that call in protocol 2 and before.
        let error = refused(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.");
        assert!(error.what.contains("`os system`") && error.what.contains("never made"), "{error}");
        for instruction in [
            &b"\x80\x02(X\x04\x00\x00\x00trueios\nsystem\n."[..],
            b"\x80\x02(cos\nsystem\no.",
            b"\x80\x02cm\nf\n)\x81.",
        ] {
            let error = refused(instruction);
            assert!(error.what.contains("instruction 0x"), "{error}");
        }
    }

    #[test]
    fn damage_has_its_place() {
        for (bytes, offset, what) in [
            (&b""[..], 0, "protocol 2"),
            (b"PK\x03\x04", 0, "protocol 2"),
            (b"\x80\x04.", 0, "protocol 4"),
            (b"\x80\x02", 2, "ends in the middle"),
            (b"\x80\x02X\xff\xff\xff\xffabc", 10, "ends in the middle"),
            (b"\x80\x02.", 3, "without the values"),
            (b"\x80\x02h\x05.", 2, "memo 5"),
            (b"\x80\x02N)b.", 2, "state for something"),
            (b"\x80\x02(K\x01u.", 2, "without"),
        ] {
            let error = refused(bytes);
            assert!(error.what.contains(what), "{bytes:?}: {error}");
            assert!(error.offset >= offset, "{bytes:?}: {error}");
        }
    }

    #[test]
    fn too_many_values_are_refused() {
        let mut bytes = b"\x80\x02".to_vec();
        bytes.extend(std::iter::repeat_n(b']', 1 << 17));
        assert!(refused(&bytes).what.contains("more than 65536 values"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_read_or_refused(tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [&b"\x80\x02"[..], &tail].concat();
            if let Ok((pickle, end)) = read(&bytes, &RULES) {
                prop_assert!(end <= bytes.len());
                let _ = pickle.entries(pickle.root());
            }
        }
    }
}
