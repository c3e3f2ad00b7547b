//! `tf.train.Example`, the message in records of images.
//!
//! `Example { features: Features = 1 }`, `Features { feature: map<string, Feature> = 1 }`,
//! `Feature { bytes_list = 1, float_list = 2, int64_list = 3 }`, and each list has `value = 1`.

use protobuf::{Fields, Value, push_bytes, push_varint};

/// Most features of a record. One of a few bytes takes many in memory, as values do.
const MAX_FEATURES: usize = 1 << 10;
/// Most values of a feature.
const MAX_VALUES: usize = 1 << 16;

/// A feature's values.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Feature<'a> {
    /// Byte strings.
    Bytes(Vec<&'a [u8]>),
    /// Whole numbers.
    Integers(Vec<i64>),
    /// Floating-point numbers, which no image set here needs, or nothing.
    Other,
}

impl<'a> Feature<'a> {
    /// The byte string, where there is exactly one.
    pub(crate) fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(values) if values.len() == 1 => Some(values[0]),
            _ => None,
        }
    }

    /// The whole numbers.
    pub(crate) fn integers(&self) -> Option<&[i64]> {
        match self {
            Self::Integers(values) => Some(values),
            _ => None,
        }
    }
}

/// The features of an `Example`, by name in the message's order.
pub(crate) fn parse_example(message: &[u8]) -> Result<Vec<(&str, Feature<'_>)>, &'static str> {
    let mut features = Vec::new();
    for_each(message, 1, |group| {
        for_each(group, 1, |entry| {
            let (mut name, mut feature) = ("", Feature::Other);
            let mut fields = Fields::new(entry);
            while let Some(field) = fields.next_field()? {
                match field {
                    (1, Value::Bytes(bytes)) => {
                        name = str::from_utf8(bytes).map_err(|_| "a feature's name that is not text")?;
                    }
                    (2, Value::Bytes(bytes)) => feature = parse_feature(bytes)?,
                    _ => {}
                }
            }
            push(&mut features, (name, feature), MAX_FEATURES)
        })
    })?;
    Ok(features)
}

fn parse_feature(message: &[u8]) -> Result<Feature<'_>, &'static str> {
    let mut feature = Feature::Other;
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Value::Bytes(list)) => {
                let mut values = Vec::new();
                for_each(list, 1, |value| push(&mut values, value, MAX_VALUES))?;
                feature = Feature::Bytes(values);
            }
            (3, Value::Bytes(list)) => feature = Feature::Integers(parse_integers(list)?),
            _ => {}
        }
    }
    Ok(feature)
}

/// Packed or one by one: readers must take both.
fn parse_integers(list: &[u8]) -> Result<Vec<i64>, &'static str> {
    let mut values = Vec::new();
    let mut fields = Fields::new(list);
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Value::Varint(value)) => push(&mut values, value as i64, MAX_VALUES)?,
            (1, Value::Bytes(packed)) => {
                let mut packed = Fields::new(packed);
                while !packed.is_empty() {
                    push(&mut values, packed.varint()? as i64, MAX_VALUES)?;
                }
            }
            _ => {}
        }
    }
    Ok(values)
}

/// Appends a value to fewer than `most`.
fn push<T>(values: &mut Vec<T>, value: T, most: usize) -> Result<(), &'static str> {
    if values.len() == most {
        return Err("more features or values than a record of an image has");
    }
    values.push(value);
    Ok(())
}

/// Calls `visit` with each submessage or string of field `number`.
fn for_each<'a>(
    message: &'a [u8],
    number: u64,
    mut visit: impl FnMut(&'a [u8]) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next_field()? {
        if let (found, Value::Bytes(bytes)) = field
            && found == number
        {
            visit(bytes)?;
        }
    }
    Ok(())
}

/// An `Example` of these features, in this order.
pub(crate) fn encode_example(features: &[(&str, Feature<'_>)]) -> Vec<u8> {
    let mut group = Vec::new();
    for (name, feature) in features {
        let mut list = Vec::new();
        let kind = match feature {
            Feature::Bytes(values) => {
                values.iter().for_each(|value| push_bytes(&mut list, 1, value));
                1
            }
            Feature::Integers(values) => {
                let mut packed = Vec::new();
                values.iter().for_each(|&value| push_varint(&mut packed, value as u64));
                push_bytes(&mut list, 1, &packed);
                3
            }
            Feature::Other => 2,
        };
        let (mut message, mut entry) = (Vec::new(), Vec::new());
        push_bytes(&mut message, kind, &list);
        push_bytes(&mut entry, 1, name.as_bytes());
        push_bytes(&mut entry, 2, &message);
        push_bytes(&mut group, 1, &entry);
    }
    let mut example = Vec::new();
    push_bytes(&mut example, 1, &group);
    example
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn examples_survive_writing_and_reading() {
        let features = [
            ("shape", Feature::Integers(vec![3, 8, -1, i64::MAX])),
            ("data", Feature::Bytes(vec![&[7; 300]])),
            ("none", Feature::Bytes(vec![])),
        ];
        assert_eq!(parse_example(&encode_example(&features)).unwrap(), features);
        assert_eq!(features[1].1.bytes(), Some(&[7; 300][..]));
        assert_eq!(features[2].1.bytes(), None);
    }

    #[test]
    fn numbers_may_stand_one_by_one() {
        // Feature { int64_list { value: 5 value: 300 } }, not packed.
        let list = [0x08, 5, 0x08, 0xac, 0x02];
        assert_eq!(parse_integers(&list), Ok(vec![5, 300]));
    }

    #[test]
    fn more_than_an_image_needs_is_refused() {
        let many = Feature::Integers(vec![0; MAX_VALUES + 1]);
        assert!(parse_example(&encode_example(&[("x", many)])).unwrap_err().contains("more features"));
        let many = vec![("x", Feature::Bytes(vec![])); MAX_FEATURES + 1];
        assert!(parse_example(&encode_example(&many)).unwrap_err().contains("more features"));
        assert!(parse_example(&encode_example(&many[1..])).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_an_example_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_example(&bytes);
        }
    }
}
