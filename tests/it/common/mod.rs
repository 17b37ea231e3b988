//! The parts that all tests share: the problem of a test, the backends it runs on, the oracle, the
//! tolerances.

pub mod backends;
pub mod hard_rows;
pub mod modules;
pub mod oracle;
pub mod output;
pub mod problem;
pub mod random;
pub mod run;
pub mod tolerance;
