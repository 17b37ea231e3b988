//! Way from runtime-dispatched tensors to the implementation that takes them, and back.
//!
//! | File | Subject |
//! |---|---|
//! | `backend` | the backend that a loss is for: the tensors' own, or one bound at compile time |
//! | `bound` | a call on a backend that is bound at compile time |
//! | `fallback` | a call on a backend without an implementation, and over a shard of the classes |
//! | `device` | facts of a device, and index targets in the host's memory |

// Burn deprecates NdArray. Its implementation has to name it.
#![cfg_attr(feature = "ndarray", allow(deprecated))]
// A build without a backend feature uses the portable path only.
#![cfg_attr(
    not(any(feature = "flex", feature = "ndarray", feature = "cube")),
    allow(unused)
)]

mod backend;
mod bound;
pub(crate) mod device;
pub(crate) mod fallback;

pub use backend::CrossEntropyBackend;
