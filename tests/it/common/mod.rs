//! What all tests share: the problem of a test, the backends it runs on, the oracle, the tolerances.

pub mod backends;
pub mod modules;
pub mod oracle;
pub mod problem;
pub mod run;
pub mod tolerance;
