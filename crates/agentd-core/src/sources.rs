//! The complete message of an error of another library.

use std::error::Error;

/// Returns the message of `error`, followed by `: ` and the message of each source that the text does not yet contain. Many
/// libraries leave out the message of the source, although often only that message names the cause.
pub fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let message = source.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// An error whose message does not contain the cause.
    #[derive(Debug, thiserror::Error)]
    #[error("send the request")]
    struct Silent(#[source] io::Error);

    /// An error whose message contains that of its source.
    #[derive(Debug, thiserror::Error)]
    #[error("list the images: {0}")]
    struct Complete(#[source] Silent);

    #[test]
    fn message_contains_that_of_each_source_once() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(with_sources(&Silent(refused())), "send the request: connection refused");
        assert_eq!(with_sources(&Complete(Silent(refused()))), "list the images: send the request: connection refused");
        assert_eq!(with_sources(&refused()), "connection refused");
    }
}
