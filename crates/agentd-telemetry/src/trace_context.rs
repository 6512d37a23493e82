//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): the identity of a span, as programs pass it to each other.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    str::FromStr,
};

/// The only version of `traceparent` that agentd writes.
const VERSION: u128 = 0;

/// A version that is never valid.
const INVALID_VERSION: u128 = 0xff;

/// The flag that requests that the spans are recorded.
const SAMPLED: u128 = 1;

/// The limits of `tracestate`: its length, its members, and the length of a key and of a value.
const MAX_STATE: usize = 512;
const MAX_MEMBERS: usize = 32;
const MAX_PART: usize = 256;

/// The trace and the span that a request belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    pub(crate) trace: u128,
    pub(crate) span: u64,
    pub(crate) sampled: bool,
    state: Option<String>,
}

/// A text is not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C trace context — use the form 00-TRACE-SPAN-01 with 32 and 16 lower-case hexadecimal digits")]
pub struct InvalidTraceParent;

impl TraceContext {
    /// Returns the first span of a new trace.
    pub fn new_trace() -> Self {
        let trace = (u128::from(unique()) << 64) | u128::from(unique());
        Self { trace, span: unique(), sampled: true, state: None }
    }

    /// Returns a new span below this span.
    pub fn child(&self) -> Self {
        Self { span: unique(), ..self.clone() }
    }

    /// Returns the context with this `tracestate`. An invalid one is left out, as the specification requires.
    pub fn with_state(self, state: &str) -> Self {
        Self { state: is_state(state).then(|| state.to_owned()), ..self }
    }

    /// Returns the `tracestate` of the caller.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

/// Returns a number that no other span has. Ids are unique, not secret: each state has its own keys, which are random at the
/// start of the thread.
fn unique() -> u64 {
    RandomState::new().hash_one(0u8).max(1)
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION:02x}-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

impl FromStr for TraceContext {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut parts = text.split('-');
        let mut number = |digits| parts.next().and_then(|part| hexadecimal(part, digits)).ok_or(InvalidTraceParent);
        let (version, trace, span, flags) = (number(2)?, number(32)?, number(16)?, number(2)?);
        // Later versions may have further parts.
        let too_long = version == VERSION && parts.next().is_some();
        let span = u64::try_from(span).map_err(|_| InvalidTraceParent)?;
        if version == INVALID_VERSION || too_long || trace == 0 || span == 0 {
            return Err(InvalidTraceParent);
        }
        Ok(Self { trace, span, sampled: flags & SAMPLED != 0, state: None })
    }
}

fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let valid = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if valid { u128::from_str_radix(text, 16).ok() } else { None }
}

/// Returns true for a list of members `key=value` within the limits.
fn is_state(text: &str) -> bool {
    let members: Vec<&str> = text.split(',').map(|member| member.trim_matches([' ', '\t'])).collect();
    let is_key = |key: &str| {
        let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
        let first = key.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        first && key.len() <= MAX_PART && key.bytes().all(rest)
    };
    let is_value = |value: &str| {
        let printable = value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=');
        !value.is_empty() && value.len() <= MAX_PART && printable
    };
    let is_member =
        |member: &&str| member.is_empty() || member.split_once('=').is_some_and(|(key, value)| is_key(key) && is_value(value));
    !text.is_empty() && text.len() <= MAX_STATE && members.len() <= MAX_MEMBERS && members.iter().all(is_member)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn traceparent_of_the_specification_is_read_and_written() {
        let context: TraceContext = EXAMPLE.parse().unwrap();
        assert_eq!((context.trace, context.span), (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7));
        assert_eq!(context.to_string(), EXAMPLE);
        // Unknown flags and the parts of later versions are not passed on.
        let later: TraceContext = format!("cc{}-what-the-future-will-be-like", &EXAMPLE[2..]).parse().unwrap();
        assert_eq!(later.to_string(), EXAMPLE);
        let unsampled: TraceContext = EXAMPLE.replace("-01", "-fe").parse().unwrap();
        assert!(!unsampled.sampled && unsampled.to_string().ends_with("-00"));
    }

    #[test]
    fn invalid_traceparent_is_refused() {
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(bad.parse::<TraceContext>(), Err(InvalidTraceParent), "{bad:?}");
        }
    }

    #[test]
    fn child_has_the_trace_of_its_parent_and_another_span() {
        let parent = EXAMPLE.parse::<TraceContext>().unwrap().with_state("rojo=00f067aa0ba902b7, congo=t61rcWkgMzE");
        let child = parent.child();
        assert_eq!((child.trace, child.sampled, child.state()), (parent.trace, true, parent.state()));
        assert!(child.state().is_some() && child.span != parent.span);
        assert_ne!(TraceContext::new_trace().trace, TraceContext::new_trace().trace);
    }

    #[test]
    fn invalid_tracestate_is_left_out_and_the_trace_continues() {
        let long = format!("a={}", "b".repeat(257));
        let many = vec!["a=b"; 33].join(",");
        for bad in ["", "A=b", "a", "a=", "a=b=c", "a=b\n", "=b", &long, &many] {
            let context = EXAMPLE.parse::<TraceContext>().unwrap().with_state(bad);
            assert_eq!((context.state(), context.to_string().as_str()), (None, EXAMPLE), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic_and_written_in_the_valid_form(text in ".{0,80}", state in ".{0,600}") {
            if let Ok(context) = text.parse::<TraceContext>() {
                prop_assert_eq!(context.to_string().parse::<TraceContext>(), Ok(context));
            }
            let state = TraceContext::new_trace().with_state(&state);
            prop_assert!(state.state().is_none_or(|state| state.is_ascii() && state.len() <= MAX_STATE));
        }
    }
}
