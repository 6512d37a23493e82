//! What the keeper does for a client.

use crate::{
    connection::Connection,
    error::KeeperError,
    live::Slots,
    protocol::{Doing, Failure, Hello, Reply, Request, Status, VERSION},
    report, ttl,
};
use agentd_core::{LayerReport, Sandbox};
use agentd_isolation::layered::slot::{self, Slot};
use agentd_sandboxes::{About, How, Name, Of, State, StateError};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};
use tokio::sync::MutexGuard;

/// How long a sandbox's processes stay when nobody uses them. What they are made of stays.
const WARM: Duration = Duration::from_secs(300);

/// How long the disk of one stays mounted that has no processes: so long as it is likely to get some again.
const MOUNTED: Duration = Duration::from_secs(10);

/// All that the keeper has.
pub(crate) struct Keeper {
    pub state: Arc<State>,
    pub slots: Slots,
}

impl Keeper {
    /// Serves one connection to its end.
    pub(crate) async fn serve(self: Arc<Self>, mut client: Connection) {
        // A client that is gone hears nothing, and what it asked for is done all the same.
        let Ok((hello, fds)) = client.receive::<Hello>().await else { return };
        let reply = if hello.version == VERSION {
            self.answer(hello.request, fds, &mut client).await
        } else {
            Ok(Some((Reply::Failed(Failure::Version(VERSION)), None)))
        };
        let (reply, fd) = match reply {
            Ok(None) => return,
            Ok(Some(reply)) => reply,
            Err(error) => (Reply::Failed(error.into()), None),
        };
        let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
        client.send(&reply, &fds).ok();
    }

    /// `None` where all that is to be said was said.
    async fn answer(
        self: &Arc<Self>,
        request: Request,
        mut fds: Vec<OwnedFd>,
        client: &mut Connection,
    ) -> Result<Option<(Reply, Option<OwnedFd>)>, KeeperError> {
        match request {
            Request::Create { name, about } => {
                let layers = self.create(name, *about).await?;
                return Ok(Some((Reply::Made(layers), None)));
            }
            Request::Exec { name, command, detach: true } => {
                let layers = self.detach(&name, *command).await?;
                return Ok(Some((Reply::Made(layers), None)));
            }
            Request::Exec { name, command, detach: false } => {
                self.exec(&name, *command, client).await?;
                return Ok(None);
            }
            Request::Status => return Ok(Some((Reply::Status(self.status()), None))),
            Request::Pause { name } => self.pause(&name).await?,
            Request::Resume { name } => self.resume(&name).await?,
            Request::Snapshot { name, snapshot } => {
                let of = name.clone();
                self.sealed(&name, move |state, how| state.snapshot(&of, &snapshot, how).map(drop)).await?;
                slot::settle(&self.state, name);
            }
            Request::Fork { name, snapshot: Some(snapshot), new } => {
                let forked = self.on_disk(move |state| state.fork(&name, Of::Snapshot(&snapshot), &new).map(drop)).await;
                self.collected_unless(forked).await?;
            }
            Request::Fork { name, snapshot: None, new } => {
                let of = name.clone();
                let forked = self.sealed(&name, move |state, how| state.fork(&of, Of::Now(how), &new).map(drop)).await;
                self.collected_unless(forked).await?;
                slot::settle(&self.state, name);
            }
            Request::Restore { name, snapshot } => {
                self.restore(&name, snapshot).await?;
                slot::settle(&self.state, name);
            }
            Request::Forget { name, snapshot } => {
                let of = name.clone();
                self.on_disk(move |state| state.drop_snapshot(&of, &snapshot).map(drop)).await?;
                slot::settle(&self.state, name);
            }
            Request::Diff { name, since, image } => {
                let changes = self.on_disk(move |state| state.diff(&name, since.as_ref(), &image)).await?;
                return Ok(Some((Reply::Done, Some(report::write_changes(&changes)?))));
            }
            Request::Check => {
                let problems = self.on_disk(State::fsck).await?;
                return Ok(Some((Reply::Done, Some(report::write_problems(&problems)?))));
            }
            Request::Remove { name } => {
                let slot = self.slots.of(&name);
                self.remove(&name, slot.lock().await).await?;
            }
            Request::Read { name, path } => {
                let content = self.read(&name, &path).await?;
                return Ok(Some((Reply::Done, Some(content))));
            }
            Request::Write { name, path } => {
                let from =
                    fds.pop().ok_or_else(|| KeeperError::Refused("a file to write came without its content".to_owned()))?;
                self.write(&name, &path, from).await?;
            }
        }
        Ok(Some((Reply::Done, None)))
    }

    /// Does what may take long, because it goes through files, beside everything else.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&State) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, KeeperError> {
        Ok(slot::on_disk(&self.state, work).await?)
    }

    /// Makes a sandbox and starts its processes: one that could never start is not made. What starting it has made in its root, as it is
    /// before anybody uses it, is its first state.
    async fn create(&self, name: Name, about: About) -> Result<Vec<LayerReport>, KeeperError> {
        let slot = self.slots.of(&name);
        let mut slot = slot.lock().await;
        let of = name.clone();
        let created = self.on_disk(move |state| state.create(&of, about).map(drop)).await;
        self.collected_unless(created).await?;
        let layers = match self.slots.start(&self.state, &name, &mut slot).await {
            Ok(live) => live.sandbox.layers().to_vec(),
            Err(error) => {
                // The first error is the one to tell.
                self.on_disk(move |state| state.remove(&name)).await.ok();
                self.collect().await.ok();
                return Err(error);
            }
        };
        slot.end().await?;
        self.on_disk(move |state| state.snapshot(&name, &Name::created(), How::Seal).map(drop)).await?;
        Ok(layers)
    }

    /// A sandbox whose processes live, and that counts as used by a command for as long as the second lives.
    pub(crate) async fn used_by(&self, name: &Name) -> Result<(Arc<dyn Sandbox>, Arc<()>), KeeperError> {
        let slot = self.slots.of(name);
        let mut slot = slot.lock().await;
        let live = self.slots.start(&self.state, name, &mut slot).await?;
        Ok((live.sandbox.clone(), live.commands.clone()))
    }

    /// Remembers that it was used now, where anything depends on that.
    pub(crate) fn used(&self, name: &Name) {
        if self.state.record(name).is_ok_and(|record| record.about.idle_ttl.is_some()) {
            // Lost, it is removed a little early.
            self.state.touch(name).ok();
        }
    }

    fn status(&self) -> Vec<Status> {
        let mut all = Vec::new();
        for (name, slot) in self.slots.each() {
            // One that is being copied may be so for long, and who only looks does not wait for it.
            let doing = match slot.try_lock() {
                Err(_) => Doing::Changes,
                Ok(slot) => match &slot.live {
                    Some(live) if slot.paused => Doing::Stands { commands: live.running() },
                    Some(live) => Doing::Lives { commands: live.running() },
                    None => continue,
                },
            };
            all.push(Status { name, doing });
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    async fn pause(&self, name: &Name) -> Result<(), KeeperError> {
        let slot = self.slots.of(name);
        let mut slot = slot.lock().await;
        Ok(slot.pause(self.slots.place(&self.state, name)).await?)
    }

    async fn resume(&self, name: &Name) -> Result<(), KeeperError> {
        self.state.record(name)?;
        let slot = self.slots.of(name);
        let mut slot = slot.lock().await;
        Ok(slot.resume().await?)
    }

    /// Does something that keeps the changes of a sandbox as a layer; see [`Slot::sealed`].
    async fn sealed(
        &self,
        name: &Name,
        work: impl FnOnce(&State, How) -> Result<(), StateError> + Send + 'static,
    ) -> Result<(), KeeperError> {
        let slot = self.slots.of(name);
        let mut slot = slot.lock().await;
        Ok(slot.sealed(self.slots.place(&self.state, name), work).await?)
    }

    async fn restore(&self, name: &Name, snapshot: Name) -> Result<(), KeeperError> {
        let slot = self.slots.of(name);
        let mut slot = slot.lock().await;
        Ok(slot.restore(self.slots.place(&self.state, name), snapshot).await?)
    }

    async fn remove(&self, name: &Name, mut slot: MutexGuard<'_, Slot>) -> Result<(), KeeperError> {
        slot.end().await?;
        let name = name.clone();
        self.on_disk(move |state| state.remove(&name)).await?;
        drop(slot);
        self.collect().await
    }

    /// What was made for what could not be done, disks among it, is removed at once.
    async fn collected_unless(&self, done: Result<(), KeeperError>) -> Result<(), KeeperError> {
        if done.is_err() {
            // The first error is the one to tell.
            self.collect().await.ok();
        }
        done
    }

    /// Removes layers that nothing needs.
    async fn collect(&self) -> Result<(), KeeperError> {
        self.on_disk(State::collect).await.map(drop)
    }

    /// Removes the sandboxes whose time is over, and ends the processes of those that nobody uses. Gives whether any lives.
    pub(crate) async fn look_after(&self) -> bool {
        let now = ttl::now();
        let mut busy = false;
        for record in self.state.list().into_iter().flatten().flatten() {
            let slot = self.slots.of(&record.name);
            // One that is being worked with is not idle; it is looked at next time.
            let Ok(mut slot) = slot.try_lock() else {
                busy = true;
                continue;
            };
            let running = slot.live.as_ref().is_some_and(|live| live.running() > 0);
            if ttl::over(&record, running, now) {
                // What cannot be removed now is tried again.
                self.remove(&record.name, slot).await.ok();
                continue;
            }
            self.rest(&mut slot, running).await;
            busy |= slot.live.is_some() || record.about.idle_ttl.is_some() || record.about.total_ttl.is_some();
        }
        self.slots.tidy();
        self.rest_disks(MOUNTED).await;
        busy
    }

    async fn rest(&self, slot: &mut Slot, running: bool) {
        let unused = slot.used.is_none_or(|used| used.elapsed() >= WARM);
        if unused && !running && !slot.paused {
            slot.end().await.ok();
        }
    }

    /// Unmounts what has not been used for so long.
    async fn rest_disks(&self, unused: Duration) {
        let rest = move |state: &State| {
            state.rest(unused);
            Ok(())
        };
        self.on_disk(rest).await.ok();
    }

    /// Ends all processes of all sandboxes, and unmounts their disks.
    pub(crate) async fn end(&self) {
        for (_, slot) in self.slots.each() {
            // Its launcher ends what cannot be ended here.
            slot.lock().await.end().await.ok();
        }
        self.rest_disks(Duration::ZERO).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_only_looks_waits_for_nobody() {
        let place = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(&place.path().join("sandboxes")).unwrap());
        let keeper = Keeper { state, slots: Slots::new() };
        let name: Name = "dev".parse().unwrap();
        let slot = keeper.slots.of(&name);
        let held = slot.lock().await;
        assert_eq!(keeper.status(), [Status { name, doing: Doing::Changes }]);
        drop(held);
        assert_eq!(keeper.status(), []);
    }
}
