//! The output of a command, as the command writes it. The engine keeps its first and its last part only.

use crate::call::CallEvent;
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The bytes that are kept of one stream.
const MAX_OF_STREAM: usize = 8 << 20;

/// The bytes that are kept of all running commands together.
const MAX_OF_ALL: usize = 32 << 20;

/// The number of bytes that running commands have in memory.
#[derive(Debug, Default)]
pub(super) struct LiveBytes(AtomicUsize);

/// Both streams of one command, as far as the limits permit. Their bytes count until the value is dropped.
#[derive(Debug)]
pub(super) struct LiveOutput {
    streams: [LiveStream; 2],
    all: Arc<LiveBytes>,
    counted: usize,
}

#[derive(Debug, Default)]
struct LiveStream {
    bytes: Vec<u8>,
    /// True if a part is missing.
    is_cut: bool,
}

impl LiveOutput {
    /// Returns the output of a command that has written nothing.
    pub fn new(all: Arc<LiveBytes>) -> Self {
        Self { streams: Default::default(), all, counted: 0 }
    }

    /// Notes what the command wrote.
    pub fn note(&mut self, event: &CallEvent) {
        let (stream, bytes) = match event {
            CallEvent::Stdout(bytes) => (&mut self.streams[0], bytes),
            CallEvent::Stderr(bytes) => (&mut self.streams[1], bytes),
            CallEvent::Held { .. } | CallEvent::Begun { .. } | CallEvent::Notice(_) => return,
        };
        if stream.is_cut {
            return;
        }
        let before = self.all.0.fetch_add(bytes.len(), Ordering::Relaxed);
        if stream.bytes.len() + bytes.len() > MAX_OF_STREAM || before + bytes.len() > MAX_OF_ALL {
            let kept = std::mem::take(&mut stream.bytes).len();
            self.all.0.fetch_sub(kept + bytes.len(), Ordering::Relaxed);
            self.counted -= kept;
            stream.is_cut = true;
            return;
        }
        self.counted += bytes.len();
        stream.bytes.extend_from_slice(bytes);
    }

    /// Returns the result of a command with the whole of each stream of which the engine has kept a part only.
    pub fn complete(&mut self, mut result: Value) -> Value {
        for (name, stream) in ["stdout", "stderr"].iter().zip(std::mem::take(&mut self.streams)) {
            let Some(part) = result.get_mut(*name).filter(|part| part["omitted"].as_u64().is_some_and(|omitted| omitted > 0))
            else {
                continue;
            };
            // The engine counts all bytes. A different number would mean that events are missing.
            if !stream.is_cut && part["bytes"] == json!(stream.bytes.len()) {
                part["text"] = String::from_utf8_lossy(&stream.bytes).into();
                part["omitted"] = 0.into();
            }
        }
        result
    }
}

impl Drop for LiveOutput {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn written(all: &Arc<LiveBytes>, parts: usize) -> LiveOutput {
        let mut output = LiveOutput::new(all.clone());
        for _ in 0..parts {
            output.note(&CallEvent::Stdout(Bytes::from(vec![b'x'; 1 << 20])));
        }
        output
    }

    fn result(bytes: usize) -> Value {
        let part = json!({ "text": "x [omitted] x", "bytes": bytes, "omitted": 1 });
        json!({ "exit_code": 0, "stdout": part, "stderr": { "text": "kept", "bytes": 4, "omitted": 0 } })
    }

    #[test]
    fn whole_output_replaces_a_part_of_it() {
        let all = Arc::default();
        let complete = written(&all, 2).complete(result(2 << 20));
        assert_eq!((complete["stdout"]["text"].as_str().unwrap().len(), &complete["stdout"]["omitted"]), (2 << 20, &json!(0)));
        assert_eq!(complete["stderr"]["text"], "kept");
    }

    #[test]
    fn incomplete_output_replaces_nothing() {
        let all = Arc::default();
        assert_eq!(written(&all, 9).complete(result(9 << 20)), result(9 << 20), "longer than the limit");
        assert_eq!(written(&all, 1).complete(result(2 << 20)), result(2 << 20), "events are missing");
        assert_eq!(LiveOutput::new(all).complete(Value::Null), Value::Null);
    }

    #[test]
    fn all_commands_together_are_bounded() {
        let all: Arc<LiveBytes> = Arc::default();
        let outputs: Vec<_> = (0..10).map(|_| written(&all, 7)).collect();
        assert!(all.0.load(Ordering::Relaxed) <= MAX_OF_ALL);
        let complete = outputs.iter().filter(|output| !output.streams[0].is_cut).count();
        assert_eq!(complete, 4);
        drop(outputs);
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }
}
