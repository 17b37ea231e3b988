//! The momentum of a target grows along half a cosine.

use burn_cross_entropy::contrastive::MomentumSchedule;

#[test]
fn the_schedule_is_half_a_cosine() {
    for (base, steps) in [(0.99, 1000), (0.996, 7), (0.0, 64), (1.0, 10), (0.3, 1)] {
        let schedule = MomentumSchedule::cosine(base, steps);
        assert_eq!(schedule.at(0), base);
        let mut last = base;
        for step in 0..=steps + 2 {
            let momentum = schedule.at(step);
            let turn = std::f64::consts::PI * step.min(steps) as f64 / steps as f64;
            let expected = 1.0 - (1.0 - base) * (turn.cos() + 1.0) / 2.0;
            assert!((momentum - expected).abs() < 1e-15, "{base} {step}");
            assert!((last..=1.0).contains(&momentum), "{base} {step}");
            last = momentum;
        }
        for step in [steps, steps + 1, usize::MAX] {
            assert_eq!(schedule.at(step), 1.0);
        }
    }
    assert_eq!(MomentumSchedule::cosine(0.5, 0).at(0), 1.0);
    let longest = MomentumSchedule::cosine(0.5, usize::MAX);
    assert!((longest.at(usize::MAX / 2) - 0.75).abs() < 1e-15);
    assert!(longest.at(usize::MAX - 1) <= 1.0);
}

#[test]
fn a_base_out_of_range_is_named() {
    for base in [-0.01, 1.01, f64::NAN] {
        let text = MomentumSchedule::try_cosine(base, 10)
            .unwrap_err()
            .to_string();
        assert!(text.contains(&format!("`base` is {base}")), "{text}");
    }
}
