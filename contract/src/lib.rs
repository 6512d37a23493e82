//! Empty: the contract consists of the tests.
