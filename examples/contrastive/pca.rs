//! Principal component analysis: the two directions in which points vary most.

use std::array;

/// Rounds of the iteration: more than enough for two components that are not nearly equal.
const ROUNDS: usize = 200;

/// Points along their two principal components.
pub struct Projection {
    pub points: Vec<[f64; 2]>,
    /// The share of the variance along each component.
    pub shares: [f64; 2],
}

/// Projects points of one common dimension to two.
pub fn project(points: &[Vec<f32>]) -> Projection {
    let width = points.first().map_or(0, Vec::len);
    let centred = centre(points, width);
    let mut directions: [Vec<f64>; 2] = array::from_fn(|which| start(which, width));
    let mut variances = [0.0; 2];
    for _ in 0..ROUNDS {
        directions = directions.map(|direction| times_covariance(&centred, &direction));
        variances[0] = normalise(&mut directions[0]);
        let overlap = dot(&directions[0], &directions[1]);
        let first = directions[0].clone();
        directions[1]
            .iter_mut()
            .zip(&first)
            .for_each(|(value, first)| *value -= overlap * first);
        variances[1] = normalise(&mut directions[1]);
    }
    let total: f64 = centred.iter().map(|point| dot(point, point)).sum();
    Projection {
        points: centred
            .iter()
            .map(|point| array::from_fn(|which| dot(point, &directions[which])))
            .collect(),
        shares: variances.map(|variance| variance / total),
    }
}

fn centre(points: &[Vec<f32>], width: usize) -> Vec<Vec<f64>> {
    let mean: Vec<f64> = (0..width)
        .map(|axis| {
            points
                .iter()
                .map(|point| f64::from(point[axis]))
                .sum::<f64>()
        })
        .map(|sum| sum / points.len() as f64)
        .collect();
    let shifted = |point: &Vec<f32>| {
        point
            .iter()
            .zip(&mean)
            .map(|(value, mean)| f64::from(*value) - mean)
            .collect()
    };
    points.iter().map(shifted).collect()
}

/// Two fixed starting directions that favour no axis and no pair of axes.
fn start(which: usize, width: usize) -> Vec<f64> {
    (0..width)
        .map(|axis| ((axis * (which + 1) + 1) as f64).sin())
        .collect()
}

/// Multiplies a direction by the (unscaled) covariance of the points, once.
fn times_covariance(centred: &[Vec<f64>], direction: &[f64]) -> Vec<f64> {
    let mut product = vec![0.0; direction.len()];
    for point in centred {
        let along = dot(point, direction);
        product
            .iter_mut()
            .zip(point)
            .for_each(|(sum, value)| *sum += along * value);
    }
    product
}

/// Divides a direction by its length and returns the length.
fn normalise(direction: &mut [f64]) -> f64 {
    let length = dot(direction, direction).sqrt();
    direction
        .iter_mut()
        .for_each(|value| *value /= length.max(f64::MIN_POSITIVE));
    length
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_seen_along_the_directions_in_which_they_vary_most() {
        let points: Vec<Vec<f32>> = [(3.0, 1.0), (3.0, -1.0), (-3.0, 1.0), (-3.0, -1.0)]
            .map(|(long, short)| vec![10.0 + 0.6 * long, 0.0, 5.0 + 0.8 * long, short])
            .to_vec();
        let projection = project(&points);
        for point in &projection.points {
            assert!((point[0].abs() - 3.0).abs() < 1e-5 && (point[1].abs() - 1.0).abs() < 1e-5);
        }
        assert!((projection.shares[0] - 0.9).abs() < 1e-5);
        assert!((projection.shares[1] - 0.1).abs() < 1e-5);
    }
}
