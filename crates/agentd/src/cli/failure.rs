//! Failures of agentd itself, which end a command of the command line.

/// Exit code: agentd itself could not do what was requested.
pub(crate) const CANNOT: u8 = 125;

/// An error that ends a command of the command line.
pub(crate) type Failure = Box<dyn std::error::Error>;
