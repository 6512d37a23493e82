//! agentd-isolation
