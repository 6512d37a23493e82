//! agentd-supervisor
