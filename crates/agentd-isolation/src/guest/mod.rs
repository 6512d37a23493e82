//! Sandboxes in virtual machines: agentd's own program runs in the machine as its *agent*, makes one sandbox there as `container` makes
//! them, over the machine's own root, and serves it over one byte stream, the *carrier*.
//!
//! So everything that a sandbox is — limits, ends, terminals, files — is done in every kind of machine by the same code, which also does it
//! on the host. What a backend adds is a [`Machine`]: how to end it, stop it, save it.
//!
//! - `frame`, `protocol`, `told`: what is said; `carrier`, `mux`, `flow`, `stream`: how it is carried.
//! - `copies`: grants, in a machine that is shown nothing of the host; `bring_back`: how the host asks for what was changed in them.
//! - `agent`, `rehearse`, `serve`, `work`, `freezer`, `inside`: the guest's side.
//! - `session`, `host`, `exec`, `frozen`, `sandbox`: the host's side. All that comes from a guest is untrusted.

mod agent;
mod bring_back;
mod carrier;
mod copies;
mod exec;
mod flow;
mod frame;
mod freezer;
mod frozen;
mod host;
mod identity;
mod inside;
mod machine;
mod mux;
mod protocol;
mod rehearse;
mod sandbox;
mod serve;
mod session;
mod stream;
mod told;
mod work;

pub use agent::{ROLE, main};
pub use copies::Copies;
pub use frozen::Frozen;
pub(crate) use host::Awake;
pub use host::Guest;
pub use identity::Identity;
pub use machine::{Attach, GuestSpec, Machine};
pub use rehearse::rehearse;
pub use sandbox::GuestSandbox;
pub use serve::serve;
