//! Tests of the form of all messages, `what failed: object: cause — what to do`.

use super::*;
use std::collections::BTreeSet;

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Returns the position of the variant in the enum. A new variant does not compile here, and then needs an error in [`all`].
fn position(error: &IsolationError) -> usize {
    match error {
        IsolationError::UnknownBackend { .. } => 0,
        IsolationError::Registration { .. } => 1,
        IsolationError::Initialize { .. } => 2,
        IsolationError::Other(_) => 3,
        IsolationError::Control(_) => 4,
        IsolationError::Invalid { .. } => 5,
        IsolationError::GrantChanged(_) => 6,
        IsolationError::Unavailable { .. } => 7,
        IsolationError::Unsupported { .. } => 8,
        IsolationError::Spawn { .. } => 9,
        IsolationError::SandboxGone(_) => 10,
        IsolationError::SupervisorDied(_) => 11,
        IsolationError::LauncherDied(_) => 12,
        IsolationError::MachineLost(_) => 13,
        IsolationError::DaemonLost(_) => 14,
        IsolationError::Busy(_) => 15,
        IsolationError::AlreadyWaited => 16,
        IsolationError::Internal(_) => 17,
        IsolationError::NoRoleHandler => 18,
        IsolationError::PoolDrained => 19,
        IsolationError::File { .. } => 20,
        IsolationError::Requirement { .. } => 21,
        IsolationError::Protocol(_) => 22,
        IsolationError::Io { .. } => 23,
        IsolationError::Combination { .. } => 24,
    }
}

const VARIANTS: usize = 25;

/// The positions of the variants that are marked as variants without a remedy.
const WITHOUT_REMEDY: [usize; 1] = [0];

/// Returns an error of each variant, and further errors of variants whose remedy depends on the cause.
fn all() -> Vec<IsolationError> {
    let text = |text: &str| text.to_owned();
    let control = |control| ControlError::new(control, "open /object", Some(EIO)).remedy("do this");
    let io = |source| IsolationError::Io { context: text("write /object"), source };
    vec![
        IsolationError::UnknownBackend { name: text("x"), available: text("y, z") },
        IsolationError::Registration { name: text("x"), reason: text("already registered for 'y'") },
        IsolationError::Initialize { name: text("x"), source: Box::new(control(Control::Mounts).into()) },
        IsolationError::other("a: b: c — do this"),
        control(Control::Mounts).into(),
        IsolationError::Invalid { what: text("grant /object"), reason: text("missing — do this") },
        control(Control::Grants).into(),
        IsolationError::Unavailable { backend: text("x"), reason: text("missing — do this") },
        IsolationError::Unsupported { backend: text("x"), operation: "fork" },
        IsolationError::Spawn { program: text("x"), errno: ENOENT },
        IsolationError::SandboxGone(text("destroyed")),
        IsolationError::SupervisorDied(text("closed")),
        IsolationError::LauncherDied(text("closed")),
        IsolationError::MachineLost(text("closed")),
        IsolationError::DaemonLost(text("closed")),
        IsolationError::Busy(text("full")),
        IsolationError::AlreadyWaited,
        IsolationError::Internal(text("panic")),
        IsolationError::NoRoleHandler,
        IsolationError::PoolDrained,
        IsolationError::File { path: text("/object"), errno: ENOENT },
        IsolationError::Requirement { missing: text("kernel") },
        IsolationError::Combination { claims: text("kernel, network") },
        IsolationError::Protocol(text("malformed frame")),
        io(io::Error::from_raw_os_error(ENOSPC)),
        io(io::Error::other("a: b: c — do this")),
    ]
}

/// Fails unless `message` is `what: …cause`, followed by ` — ` and the remedy if there is one.
fn assert_form(message: &str, remedy: &Remedy) {
    let before = message.strip_suffix(&remedy.to_string()).unwrap_or_else(|| panic!("{message:?} does not end with {remedy:?}"));
    assert!(!before.contains(" — "), "two remedies, or one that is not in the type: {message:?}, {remedy:?}");
    let parts: Vec<&str> = before.split(": ").collect();
    assert!(parts.len() > 1 && parts.iter().all(|part| !part.trim().is_empty()), "neither object nor cause: {message:?}");
}

#[test]
fn message_of_every_variant_has_form_and_remedy_or_is_marked_as_without() {
    let mut seen = BTreeSet::new();
    for error in all() {
        let (position, remedy) = (position(&error), error.remedy());
        seen.insert(position);
        assert_eq!(remedy == Remedy::None, WITHOUT_REMEDY.contains(&position), "{error}");
        if position != 0 {
            assert_form(&error.to_string(), &remedy);
        }
    }
    assert_eq!(seen, (0..VARIANTS).collect(), "a variant without an error in all()");
    let fixed = "Unknown isolation backend 'x'. Available backends: y, z";
    assert_eq!(all()[0].to_string(), fixed, "the message of the public contract");
}

#[test]
fn unexpected_errno_has_no_remedy() {
    let io = IsolationError::Io { context: "read /object".to_owned(), source: io::Error::from_raw_os_error(EIO) };
    let spawn = IsolationError::Spawn { program: "x".to_owned(), errno: EIO };
    let file = IsolationError::File { path: "/object".to_owned(), errno: EIO };
    for error in [io, spawn, file] {
        assert_eq!(error.remedy(), Remedy::None, "{error}");
        assert_form(&error.to_string(), &error.remedy());
    }
}

#[test]
fn message_of_every_control_error_has_form() {
    let os = || io::Error::from_raw_os_error(ENOENT);
    let plain = ControlError::new(Control::Mounts, "mount proc on /proc", Some(ENOENT));
    let caused = ControlError::caused_by(Control::Mounts, "mount proc on /proc", os());
    for error in [plain, caused] {
        assert_eq!((error.errno, &error.remedy), (Some(ENOENT), &Remedy::None));
        assert_form(&error.to_string(), &Remedy::None);
        let error = error.remedy("do this");
        assert_form(&error.to_string(), &Remedy::Text("do this".to_owned()));
        assert_eq!(error.to_string(), format!("mounts: mount proc on /proc: {} — do this", os()));
    }
}

/// An error with a source, as libraries have.
#[derive(Debug, thiserror::Error)]
#[error("a rule was refused")]
struct Refused(#[source] io::Error);

#[test]
fn control_error_keeps_errno_and_source() {
    let error = ControlError::caused_by(Control::Landlock, "add rule for /", Refused(io::Error::from_raw_os_error(ENOENT)));
    assert_eq!(error.errno, Some(ENOENT));
    for error in [error.clone().remedy("do this"), error.clone().map_texts(str::to_owned), error.clone()] {
        assert!(error.source().is_some_and(|source| source.is::<Refused>()), "{error:?}");
        assert!(IsolationError::from(error).source().is_some_and(|source| source.is::<Refused>()));
    }
    // Another process receives everything except the source.
    let received: ControlError = serde_json::from_str(&serde_json::to_string(&error).unwrap()).unwrap();
    assert!(received.source().is_none());
    assert_eq!((&received, received.to_string()), (&error, error.to_string()));
}

#[test]
fn error_of_embedder_is_displayed_with_its_sources() {
    let error = IsolationError::other(Refused(io::Error::from_raw_os_error(ENOENT)));
    assert_eq!(error.to_string(), format!("a rule was refused: {}", io::Error::from_raw_os_error(ENOENT)));
    assert!(error.source().is_some_and(|source| source.is::<Refused>()));
}

#[test]
fn control_error_of_source_without_errno_includes_its_message() {
    let error = ControlError::caused_by(Control::Seccomp, "install filter", io::Error::other("the filter is empty"));
    assert_eq!(error.errno, None);
    let received: ControlError = serde_json::from_str(&serde_json::to_string(&error).unwrap()).unwrap();
    assert_eq!(received.to_string(), "seccomp: install filter: the filter is empty");
}

#[test]
fn remedy_is_serialised_as_string() {
    for (error, remedy) in [
        (ControlError::new(Control::Exec, "call", None), ""),
        (ControlError::new(Control::Exec, "call", None).remedy("do this"), "do this"),
    ] {
        let json = serde_json::to_value(&error).unwrap();
        assert_eq!(json, serde_json::json!({ "control": "exec", "call": "call", "errno": null, "remedy": remedy }));
        assert_eq!(serde_json::from_value::<ControlError>(json).unwrap(), error);
    }
}
