//! The interfaces of the daemon, by the paths of requests.

/// The interface that a request uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// REST, and everything that is none of the others.
    Rest,
    /// gRPC.
    Grpc,
    /// MCP. A model may choose what such a request says.
    Mcp,
    /// The metrics of the daemon.
    Metrics,
}

/// All interfaces.
const ALL: [Interface; 4] = [Interface::Rest, Interface::Grpc, Interface::Mcp, Interface::Metrics];

/// The interfaces of a key that names none. Metrics are about all principals.
pub const USUAL_INTERFACES: [Interface; 3] = [Interface::Rest, Interface::Grpc, Interface::Mcp];

impl Interface {
    /// Returns the interface of a path.
    pub fn of_path(path: &str) -> Self {
        match path.split('/').nth(1).unwrap_or_default() {
            "mcp" => Self::Mcp,
            "metrics" => Self::Metrics,
            // A service of gRPC has the name of its package, such as `agentd.v1.Agentd`.
            service if service.starts_with("agentd.") || service.starts_with("grpc.") => Self::Grpc,
            _ => Self::Rest,
        }
    }

    /// Returns the interface with this name.
    pub fn of_word(word: &str) -> Option<Self> {
        ALL.into_iter().find(|interface| interface.word() == word)
    }

    /// Returns the name of the transport, as keys, policies and records contain it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Grpc => "grpc",
            Self::Mcp => "mcp-http",
            Self::Metrics => "metrics",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_is_that_of_the_path() {
        for (path, expected) in [
            ("/v1/intents", Interface::Rest),
            ("/mcp", Interface::Mcp),
            ("/mcp/", Interface::Mcp),
            ("/mcp-other", Interface::Rest),
            ("/agentd.v1.Agentd/Execute", Interface::Grpc),
            ("/grpc.health.v1.Health/Check", Interface::Grpc),
            ("/metrics", Interface::Metrics),
            ("", Interface::Rest),
            ("//mcp", Interface::Rest),
        ] {
            assert_eq!(Interface::of_path(path), expected, "{path}");
            assert_eq!(Interface::of_word(expected.word()), Some(expected));
        }
        assert_eq!(Interface::of_word("local-socket"), None);
    }
}
