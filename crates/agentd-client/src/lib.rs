//! A client of agentd's daemon over gRPC.
