//! The event loop of a launcher: receives orders, carries them out, and sends reports.

use super::{Launcher, ending::Ending, hierarchy, live::Freezing, prepared::Prepared};
use crate::{
    channel::{Channel, ChannelError, send, send_some},
    protocol::{self, Event, Order, Report},
    shorten,
};
use agentd_core::{Control, ControlError};
use agentd_kernel::cgroup::Hierarchy;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    collections::HashSet,
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

impl Launcher {
    /// Waits for the next event and handles everything that is due.
    pub(super) fn step(&mut self, control: &mut Channel) -> Result<(), ChannelError> {
        if self.wait(Some(control))? {
            control.fill()?;
        }
        while let Some((order, fds)) = control.buffered()? {
            self.handle(order, fds)?;
        }
        self.advance(Some(control))?;
        self.flush(control)
    }

    /// Waits for an order, for the end of a process, or until the next attempt is due. Returns true if an order has arrived.
    fn wait(&mut self, control: Option<&Channel>) -> Result<bool, ChannelError> {
        let wanted = if self.reports.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let control = control.map(|control| PollFd::from_borrowed_fd(control.as_fd(), wanted));
        let ends = self.endings.iter().filter_map(Ending::pidfd).map(|pidfd| PollFd::from_borrowed_fd(pidfd, PollFlags::IN));
        let listened = usize::from(control.is_some());
        let mut ready: Vec<PollFd<'_>> = control.into_iter().chain(ends).collect();
        let due = self.endings.iter().filter_map(Ending::due).chain(self.freezings.values().map(|freezing| freezing.at)).min();
        let timeout = due.and_then(|at| Timespec::try_from(at.saturating_duration_since(Instant::now())).ok());
        match poll(&mut ready, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let (control, ends) = ready.split_at(listened);
        let input = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        let ordered = control.iter().any(|control| control.revents().intersects(input));
        let dead: Vec<bool> = ends.iter().map(|end| !end.revents().is_empty()).collect();
        for (ending, dead) in self.endings.iter_mut().filter(|ending| ending.pidfd().is_some()).zip(dead) {
            ending.dead = dead;
        }
        Ok(ordered)
    }

    fn handle(&mut self, order: Order, mut fds: Vec<OwnedFd>) -> Result<(), ChannelError> {
        match order {
            Order::Create { id, plan } => {
                let channel = fds.pop().ok_or(ChannelError::MissingFds)?;
                if let Err(error) = self.create(id, &plan, &channel) {
                    let controls = Err(shorten::error(error));
                    let hello = Event::Hello {
                        version: protocol::VERSION,
                        controls,
                        watches: Vec::new(),
                        sockets: Vec::new(),
                        owner: None,
                    };
                    // The library may have given up and closed the channel.
                    send(channel.as_fd(), &hello, &[]).ok();
                }
                Ok(())
            }
            Order::Prepare(expected) => {
                self.prepare(expected);
                Ok(())
            }
            Order::Destroy { id, report } => self.destroy(id, report),
            Order::Freeze { id, frozen } => {
                self.cancel_freezing(id, "a later order replaced this one")?;
                match self.freeze(id, frozen) {
                    Ok(true) => Ok(()),
                    begun => self.report(&Report::Frozen { id, error: begun.err().map(shorten::error) }),
                }
            }
        }
    }

    /// Queues a report until the socket accepts it.
    fn report(&mut self, report: &Report) -> Result<(), ChannelError> {
        self.reports.extend(protocol::encode(report, 0).map_err(ChannelError::Encode)?);
        Ok(())
    }

    /// Sends as many queued reports as the socket accepts.
    fn flush(&mut self, control: &Channel) -> Result<(), ChannelError> {
        while !self.reports.is_empty() {
            let Some(sent) = send_some(control.as_fd(), &self.reports, &[])? else { return Ok(()) };
            self.reports.drain(..sent);
        }
        Ok(())
    }

    /// Continues everything that the kernel completes asynchronously; reports what has completed.
    fn advance(&mut self, control: Option<&Channel>) -> Result<(), ChannelError> {
        let now = Instant::now();
        let mut frozen = Vec::new();
        for (&id, freezing) in self.freezings.iter_mut().filter(|(_, freezing)| freezing.at <= now) {
            let freezer = self.sandboxes.get(&id).and_then(|live| live.freezer.as_ref());
            frozen.extend(freezer.and_then(|freezer| freezing.step(freezer)).map(|ended| (id, ended.err())));
        }
        for (id, error) in frozen {
            self.freezings.remove(&id);
            self.report(&Report::Frozen { id, error: error.map(shorten::error) })?;
        }
        let keep = if self.endings.iter().any(Ending::leaves_orphans) { self.first_processes() } else { HashSet::new() };
        let mut index = 0;
        while let Some(ending) = self.endings.get_mut(index) {
            let ended = if ending.can_go_on(now) { ending.step(&keep) } else { None };
            let Some(ended) = ended else {
                index += 1;
                continue;
            };
            let mut ending = self.endings.swap_remove(index);
            let report = Report::Destroyed { id: ending.id, error: ended.err().map(shorten::error) };
            for _ in 0..std::mem::take(&mut ending.reports) {
                self.report(&report)?;
            }
            // Send the report before the sandbox's remaining resources are dropped, which takes time.
            control.map_or(Ok(()), |control| self.flush(control))?;
            if matches!(report, Report::Destroyed { error: Some(_), .. }) {
                self.failed.insert(ending.id, ending);
            }
        }
        Ok(())
    }

    /// Returns the children of the launcher that are first processes of sandboxes.
    fn first_processes(&self) -> HashSet<i32> {
        let living = self.sandboxes.values().map(|live| live.pid.as_raw_nonzero().get());
        let living = living.chain(self.prepared.iter().map(Prepared::pid));
        living.chain(self.endings.iter().filter_map(Ending::first_process)).collect()
    }

    /// Ends all sandboxes without a report, because the library is gone.
    pub(super) fn end_all(&mut self) {
        if let Some(prepared) = self.prepared.take() {
            prepared.end();
        }
        self.freezings.clear();
        self.endings.extend(self.sandboxes.drain().map(|(id, live)| Ending::begin(id, live)));
        self.endings.extend(self.failed.drain().map(|(_, ending)| ending.again()));
        while !self.endings.is_empty() && self.wait(None).is_ok() && self.advance(None).is_ok() {}
    }

    /// Starts to freeze or thaw a sandbox. Returns false if there is nothing to wait for.
    fn freeze(&mut self, id: u32, frozen: bool) -> Result<bool, ControlError> {
        let gone = || ControlError::new(Control::Process, "find the sandbox", Some(libc::ESRCH));
        let live = self.sandboxes.get_mut(&id).ok_or_else(gone)?;
        let freezer = match &mut live.freezer {
            Some(made) => made,
            None if !frozen => return Ok(false),
            none => {
                self.groups += 1;
                let name = Hierarchy::name(self.groups);
                // Stored before it is filled, so that a half-filled group is removed with the sandbox.
                none.insert(hierarchy(&mut self.hierarchy).freezer(&name, live.cgroup.as_ref())?)
            }
        };
        if frozen {
            let root = live.pid.as_raw_nonzero().get();
            freezer.gather(|| crate::sweep::tree(root, |_| ()))?;
        }
        self.freezings.insert(id, Freezing::begin(frozen));
        Ok(true)
    }

    /// Reports that a freeze or thaw order was cancelled.
    fn cancel_freezing(&mut self, id: u32, why: &str) -> Result<(), ChannelError> {
        if self.freezings.remove(&id).is_none() {
            return Ok(());
        }
        let error = ControlError::new(Control::Cgroup, format!("freeze or thaw the sandbox: {why}"), Some(libc::ECANCELED));
        self.report(&Report::Frozen { id, error: Some(error) })
    }

    /// Starts to destroy a sandbox, or tries again if an earlier attempt failed. The report follows once its processes and
    /// cgroups are gone, or immediately if no such sandbox exists.
    fn destroy(&mut self, id: u32, report: bool) -> Result<(), ChannelError> {
        self.cancel_freezing(id, "the sandbox was destroyed")?;
        let begun = self.sandboxes.remove(&id).map(|live| Ending::begin(id, live));
        self.endings.extend(begun.or_else(|| self.failed.remove(&id).map(Ending::again)));
        match self.endings.iter_mut().find(|ending| ending.id == id) {
            Some(ending) => ending.reports += u32::from(report),
            None if report => self.report(&Report::Destroyed { id, error: None })?,
            None => {}
        }
        Ok(())
    }
}
