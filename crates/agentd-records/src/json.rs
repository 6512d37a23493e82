//! JSON with one form for each value. Text that agentd signs is in the canonical form of RFC 8785 (JCS), with integers only: the
//! same value always has the same bytes. Text that agentd reads has each key of an object once.

use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use std::fmt;

/// The largest integer that every JSON parser represents exactly (RFC 7493, section 2.2).
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// The reason why JSON is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The text is not JSON, has a key twice, or does not have the expected members.
    #[error("{0}")]
    Parse(#[from] serde_json::Error),
    /// A number has no canonical form here.
    #[error("the number {0} is not an integer between -(2^53 - 1) and 2^53 - 1")]
    Number(Number),
    /// The text is not in the canonical form.
    #[error("the JSON is not in the canonical form of RFC 8785")]
    NotCanonical,
}

/// Returns the canonical form of a value.
///
/// # Errors
/// [`JsonError::Number`] for a fraction or a number beyond [`MAX_INTEGER`], and the error of a value that JSON cannot represent.
pub fn canonical(value: &impl Serialize) -> Result<String, JsonError> {
    let mut text = String::new();
    write(&serde_json::to_value(value)?, integer, &mut text)?;
    Ok(text)
}

/// Returns the canonical form of any value: that of RFC 8785, except that integers beyond [`MAX_INTEGER`] keep all their digits.
/// Values that differ therefore have different forms.
///
/// # Errors
/// None for a value that was parsed.
pub fn canonical_of_any(value: &Value) -> Result<String, JsonError> {
    let mut text = String::new();
    write(value, |number| Ok(any_number(number)), &mut text)?;
    Ok(text)
}

/// Parses JSON in which no object has a key twice.
///
/// # Errors
/// [`JsonError::Parse`].
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    let Unique(value) = serde_json::from_slice(bytes)?;
    Ok(serde_json::from_value(value)?)
}

/// Parses JSON in the canonical form.
///
/// # Errors
/// [`JsonError`].
pub fn parse_canonical<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    let Unique(value) = serde_json::from_slice(bytes)?;
    let mut text = String::new();
    write(&value, integer, &mut text)?;
    if text.as_bytes() != bytes {
        return Err(JsonError::NotCanonical);
    }
    Ok(serde_json::from_value(value)?)
}

fn integer(number: &Number) -> Result<String, JsonError> {
    let magnitude = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
    if magnitude.is_none_or(|magnitude| magnitude > MAX_INTEGER) {
        return Err(JsonError::Number(number.clone()));
    }
    Ok(number.to_string())
}

/// Returns a number as ECMAScript prints it (RFC 8785, section 3.2.2.3), and an integer with all digits.
fn any_number(number: &Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    // The shortest digits that identify the number, and its exponent: `-1.25e-7`.
    let text = format!("{:e}", float.abs());
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = digits.replace('.', "");
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or_default());
    let (count, exponent) = (i32::try_from(digits.len()).unwrap_or(i32::MAX), exponent.parse::<i32>().unwrap_or_default());
    let sign = if float < 0.0 { "-" } else { "" };
    match exponent + 1 {
        point if point > 21 || point <= -6 => {
            let (first, rest) = digits.split_at(1);
            let dot = if rest.is_empty() { "" } else { "." };
            format!("{sign}{first}{dot}{rest}e{exponent:+}")
        }
        point if point >= count => format!("{sign}{digits}{}", zeros(point - count)),
        point if point > 0 => {
            let (whole, fraction) = digits.split_at(usize::try_from(point).unwrap_or_default());
            format!("{sign}{whole}.{fraction}")
        }
        point => format!("{sign}0.{}{digits}", zeros(-point)),
    }
}

fn write(value: &Value, number: fn(&Number) -> Result<String, JsonError>, text: &mut String) -> Result<(), JsonError> {
    match value {
        Value::Number(value) => *text += &number(value)?,
        Value::Array(values) => {
            text.push('[');
            for (index, value) in values.iter().enumerate() {
                text.push_str(if index > 0 { "," } else { "" });
                write(value, number, text)?;
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            // RFC 8785 sorts by UTF-16 code units, which differs from the order of UTF-8 beyond U+FFFF.
            members.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
            text.push('{');
            for (index, (name, value)) in members.into_iter().enumerate() {
                text.push_str(if index > 0 { "," } else { "" });
                // serde_json escapes strings as RFC 8785 requires.
                *text += &serde_json::to_string(name)?;
                text.push(':');
                write(value, number, text)?;
            }
            text.push('}');
        }
        Value::Null | Value::Bool(_) | Value::String(_) => *text += &serde_json::to_string(value)?,
    }
    Ok(())
}

/// A value in which no object has a key twice. If a key occurs several times, `serde_json` alone keeps the last value, and other
/// parsers keep the first.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = sequence.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Unique(value))) = members.next_entry::<String, _>()? {
            if object.insert(name.clone(), value).is_some() {
                return Err(A::Error::custom(format_args!("the key {name:?} occurs twice")));
            }
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Result<String, String> {
        parse::<Value>(text.as_bytes()).and_then(|value| canonical(&value)).map_err(|error| error.to_string())
    }

    #[test]
    fn canonical_form_is_that_of_rfc_8785() {
        // The strings and the order of the examples in sections 3.2.2 and 3.2.3.
        let strings = r#"{"string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"#;
        assert_eq!(form(strings).unwrap(), "{\"literals\":[null,true,false],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}");
        let sorted = r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#;
        assert_eq!(form(sorted).unwrap(), "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\u{fb33}\":3}");
        assert_eq!(form(" [ -9007199254740991 , 9007199254740991 ] ").unwrap(), "[-9007199254740991,9007199254740991]");
    }

    #[test]
    fn numbers_without_one_exact_form_are_refused() {
        for number in ["1.0", "1e2", "1E400", "-0.5", "-0", "9007199254740992", "-9007199254740992", "18446744073709551616"] {
            let refused = form(number).unwrap_err();
            assert!(refused.contains("is not an integer") || refused.contains("out of range"), "{number}: {refused}");
            assert!(parse_canonical::<Value>(number.as_bytes()).is_err(), "{number}");
        }
    }

    #[test]
    fn every_number_has_the_form_of_rfc_8785_and_integers_keep_all_digits() {
        for (number, expected) in [
            ("0.0", "0"),
            ("-0.0", "0"),
            ("1.0", "1"),
            ("1e2", "100"),
            ("-0.5", "-0.5"),
            ("333333333.33333329", "333333333.3333333"),
            ("1E30", "1e+30"),
            ("4.50", "4.5"),
            ("2e-3", "0.002"),
            ("0.000000000000000000000000001", "1e-27"),
            ("1e-6", "0.000001"),
            ("1e-7", "1e-7"),
            ("1.5e-7", "1.5e-7"),
            ("1e20", "100000000000000000000"),
            ("123456789012345680000.0", "123456789012345680000"),
            ("1e21", "1e+21"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
        ] {
            assert_eq!(canonical_of_any(&serde_json::from_str(number).unwrap()).unwrap(), expected, "{number}");
        }
    }

    #[test]
    fn key_that_occurs_twice_is_refused_at_every_depth() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"\u0061":2}}]"#] {
            assert!(form(text).unwrap_err().contains("occurs twice"), "{text}");
        }
    }

    #[test]
    fn only_the_canonical_form_is_parsed_as_canonical() {
        assert!(parse_canonical::<Value>(br#"{"a":1,"b":[]}"#).is_ok());
        for other in [r#"{"b":[],"a":1}"#, r#"{"a": 1,"b":[]}"#, r#"{"\u0061":1,"b":[]}"#, "{\"a\":1,\"b\":[]}\n", "-0"] {
            assert!(parse_canonical::<Value>(other.as_bytes()).is_err(), "{other}");
        }
    }
}
