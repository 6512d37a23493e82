//! A connection after its upgrade to a WebSocket.

use super::{mask::Patterns, websocket::Frames};
use crate::record::FlowRefusal;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::{io, sync::Arc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, copy, copy_bidirectional, split};

const PART: usize = 8 * 1024;

/// The two sides, which become available once the response to the upgrade has been sent.
pub(crate) struct Tunnel {
    pub(crate) client: OnUpgrade,
    pub(crate) server: OnUpgrade,
    /// The secrets that the server's frames must not contain.
    pub(crate) patterns: Option<Arc<Patterns>>,
}

/// The reason why a tunnel did not end by itself.
pub(crate) enum TunnelEnd {
    Refused(FlowRefusal),
    Broken(io::Error),
}

impl From<io::Error> for TunnelEnd {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl Tunnel {
    /// Carries bytes until both sides have closed.
    pub(crate) async fn run(self) -> Result<(), TunnelEnd> {
        let (client, server) = tokio::try_join!(self.client, self.server).map_err(io::Error::other)?;
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        let Some(patterns) = self.patterns else {
            copy_bidirectional(&mut client, &mut server).await?;
            return Ok(());
        };
        let ((mut from_client, to_client), (from_server, mut to_server)) = (split(client), split(server));
        let up = async {
            copy(&mut from_client, &mut to_server).await?;
            Ok(to_server.shutdown().await?)
        };
        tokio::try_join!(up, masked(from_server, to_client, Frames::new(patterns))).map(drop)
    }
}

async fn masked(
    mut from: ReadHalf<TokioIo<Upgraded>>,
    mut to: WriteHalf<TokioIo<Upgraded>>,
    mut frames: Frames,
) -> Result<(), TunnelEnd> {
    let mut part = vec![0; PART];
    loop {
        let length = from.read(&mut part).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        let out = frames.feed(&part[..length]).map_err(|refusal| TunnelEnd::Refused(refusal.into()))?;
        to.write_all(&out).await?;
        to.flush().await?;
    }
}
