//! The parts that all tests share: the problem of a test, the backends it runs on, the oracle and its second
//! form, the tolerances.

pub mod archive;
pub mod backends;
pub mod details;
pub mod double_double;
pub mod entries;
pub mod exact;
pub mod expected;
pub mod hard_rows;
pub mod modules;
pub mod oracle;
pub mod output;
pub mod portably;
pub mod problem;
pub mod random;
pub mod row_value;
pub mod run;
pub mod tails;
pub mod teacher;
pub mod tolerance;
pub mod values;
