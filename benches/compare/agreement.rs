//! Compares the results of two sides. Nothing is timed before they agree.

use std::fmt::{self, Display};

use crate::machine::{part_of, together};

/// The loss, and what is compared of its gradient.
pub struct Outcome {
    pub loss: f64,
    /// The sum of the gradient's absolute values, in f64.
    pub gradient_sum: f64,
    /// Single entries of the gradient.
    pub probes: Vec<f64>,
}

impl Outcome {
    pub fn of_loss(loss: f64) -> Self {
        Self {
            loss,
            gradient_sum: 0.0,
            probes: Vec::new(),
        }
    }

    /// Adds the gradient's entries from `first` on. `places`, the places of the probes, is the same in every
    /// call.
    pub fn add(&mut self, entries: &[f32], first: usize, places: &[usize]) {
        let size = |part: &[f32]| {
            part.iter()
                .map(|&value| f64::from(value).abs())
                .sum::<f64>()
        };
        let sizes = together(entries.chunks(part_of(entries.len())), size);
        self.gradient_sum += sizes.into_iter().sum::<f64>();
        self.probes.resize(places.len(), f64::NAN);
        for (probe, &place) in self.probes.iter_mut().zip(places) {
            if let Some(&value) = place.checked_sub(first).and_then(|at| entries.get(at)) {
                *probe = value.into();
            }
        }
    }
}

impl Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(
            formatter,
            "loss {}, sum of |gradient| {:e}, entries of the gradient {:?}",
            self.loss, self.gradient_sum, self.probes
        )
    }
}

/// The largest differences allowed between two sides, as shares of the other side's value.
pub struct Tolerance {
    pub loss: f64,
    pub gradient_sum: f64,
    pub probe: f64,
    /// An absolute difference that any probe may have.
    pub probe_floor: f64,
}

impl Tolerance {
    /// The tolerance for two sides that compute in f32 and keep the results in f32.
    pub fn of_f32(mean_gradient: f64) -> Self {
        // An entry under soft targets is the difference of a probability and a share. Both are about as large
        // as the mean; the difference may be much smaller.
        Self {
            loss: 1e-5,
            gradient_sum: 1e-5,
            probe: 1e-4,
            probe_floor: 1e-5 * mean_gradient,
        }
    }

    /// Returns an error that shows both sides, by their names, if they disagree.
    pub fn check(&self, one: (&str, &Outcome), other: (&str, &Outcome)) -> Result<(), String> {
        let ((name, one), (other_name, other)) = (one, other);
        let near = |one: f64, other: f64, share: f64, floor: f64| {
            (one - other).abs() <= share * other.abs() + floor
        };
        let loss = near(one.loss, other.loss, self.loss, 0.0);
        let (sum, other_sum) = (one.gradient_sum, other.gradient_sum);
        let sum = near(sum, other_sum, self.gradient_sum, 0.0);
        let mut probes = one.probes.iter().zip(&other.probes);
        let probes = one.probes.len() == other.probes.len()
            && probes.all(|(&one, &other)| near(one, other, self.probe, self.probe_floor));
        if loss && sum && probes {
            return Ok(());
        }
        Err(format!(
            "{name} and {other_name} disagree\n{name}: {one}\n{other_name}: {other}"
        ))
    }
}
