//! agentd-kernel
