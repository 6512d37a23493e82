//! agentd-attack
