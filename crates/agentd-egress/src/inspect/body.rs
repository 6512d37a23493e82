//! The bodies of responses.

use super::mask::Masker;
use hyper::{
    HeaderMap,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::HeaderValue,
};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// The body of a response to the sandbox. Only the part that has just arrived is in memory.
pub(crate) enum Reply {
    /// A text of the gateway.
    Text(Option<Bytes>),
    /// A body of the server.
    Plain(Incoming),
    /// A body of the server, in which secrets are masked.
    Masked(Box<MaskedBody>),
}

pub(crate) struct MaskedBody {
    pub(crate) from: Incoming,
    pub(crate) masker: Masker,
    /// True if the server's body has ended.
    pub(crate) ended: bool,
    pub(crate) trailers: Option<HeaderMap>,
}

impl MaskedBody {
    pub(crate) fn new(from: Incoming, masker: Masker) -> Self {
        let ended = from.is_end_stream();
        Self { from, masker, ended, trailers: None }
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        while !self.ended {
            let frame = ready!(Pin::new(&mut self.from).poll_frame(cx)).transpose()?;
            let frame = frame.map(Frame::into_data);
            let out = match frame {
                Some(Ok(data)) => self.masker.feed(&data),
                other => {
                    self.ended = true;
                    self.trailers = other.and_then(Result::err).and_then(|frame| frame.into_trailers().ok());
                    self.masker.finish()
                }
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
        }
        let mut trailers = self.trailers.take();
        if let Some(trailers) = &mut trailers {
            mask_headers(trailers, &self.masker);
        }
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

/// Masks secrets in headers or trailers. A field whose name contains a secret is removed.
pub(crate) fn mask_headers(headers: &mut HeaderMap, masker: &Masker) {
    let patterns = masker.patterns();
    // Names are in lower case.
    let named: Vec<_> = headers.keys().filter(|name| patterns.in_lower_case(name.as_str().as_bytes())).cloned().collect();
    for name in named {
        headers.remove(name);
    }
    for value in headers.values_mut() {
        let mut bytes = value.as_bytes().to_vec();
        if patterns.mask(&mut bytes) {
            // A mask consists of visible characters, so the value remains one.
            *value = HeaderValue::from_bytes(&bytes).unwrap_or_else(|_| HeaderValue::from_static(""));
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Plain(from) => Pin::new(from).poll_frame(cx),
            Self::Masked(masked) => masked.poll_part(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Plain(from) => from.is_end_stream(),
            Self::Masked(masked) => masked.ended && masked.masker.is_empty() && masked.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Plain(from) => from.size_hint(),
            // A mask is as long as what it covers, and `Content-Length` states the length.
            Self::Masked(_) => SizeHint::default(),
        }
    }
}
