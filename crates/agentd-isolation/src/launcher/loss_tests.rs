use super::*;
use crate::launcher::Key;
use agentd_core::IsolationError;
use agentd_supervisor::{channel::Channel, protocol, protocol::Order};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    process::{Command, Stdio},
    thread,
};

/// The launcher's process continues although its socket is closed, until it is killed. The order must be waiting when the other
/// task runs, because the thread that handles the loss starts only there.
#[tokio::test]
async fn order_to_lost_launcher_blocks_no_other_task_and_fails_after_its_end() {
    let mut process = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let pidfd = pidfd_open(Pid::from_child(&process), PidfdFlags::empty()).unwrap();
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    drop(theirs);
    let launcher = Arc::new(Launcher::new(ours.try_clone().unwrap(), pidfd));
    let freeze = Order::Freeze { id: 1, frozen: true };
    let order = launcher.order(&freeze, Key::Frozen(1), || ());
    let other = async {
        assert_eq!(process.try_wait().unwrap(), None, "the order ended the process before the other task ran");
        let reader = launcher.clone();
        thread::spawn(move || reader.read_reports(Channel::new(ours, protocol::MAX_EVENT)))
    };
    let (ordered, reader) = tokio::join!(order, other);
    assert!(matches!(ordered, Err(IsolationError::LauncherDied(_))), "{ordered:?}");
    assert!(process.try_wait().unwrap().is_some(), "the loss was reported before the end of the process");
    reader.join().unwrap();
}
