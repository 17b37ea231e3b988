//! A quiet renderer for burn-train: it prints a line per epoch, where burn-train's own prints one per batch.

use std::time::Instant;

use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{MetricAttributes, MetricDefinition, MetricId};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};

/// Prints the metrics of each epoch when it is over.
#[derive(Default)]
pub struct EpochLines {
    metrics: Vec<Column>,
    epochs: usize,
    started: Option<Instant>,
    /// Whether the line above the table is printed, which waits for the first epoch: a finished run that is
    /// resumed has none.
    headed: bool,
}

/// A metric and its last values.
struct Column {
    id: MetricId,
    name: String,
    unit: String,
    decimals: usize,
    training: Option<f64>,
    held_out: Option<f64>,
}

impl EpochLines {
    fn column(&mut self, state: MetricState) -> Option<(&mut Column, f64)> {
        let MetricState::Numeric(entry, Some(value)) = state else {
            return None;
        };
        let mut columns = self.metrics.iter_mut();
        let column = columns.find(|column| column.id == entry.metric_id)?;
        Some((column, value.current()))
    }

    fn line(&self, epoch: usize) -> String {
        let width = self.epochs.to_string().len();
        let seconds = self
            .started
            .map_or(0.0, |start| start.elapsed().as_secs_f64());
        let mut line = format!("epoch {epoch:width$}/{}  {seconds:5.1} s", self.epochs);
        for column in &self.metrics {
            if let (Some(training), Some(held_out)) = (column.training, column.held_out) {
                let Column {
                    name,
                    unit,
                    decimals,
                    ..
                } = column;
                line += &format!("   {name} {training:.decimals$} | {held_out:.decimals$}{unit}");
            }
        }
        line
    }
}

impl MetricsRendererTraining for EpochLines {
    fn update_train(&mut self, state: MetricState) {
        if let Some((column, value)) = self.column(state) {
            column.training = Some(value);
        }
    }

    fn update_valid(&mut self, state: MetricState) {
        if let Some((column, value)) = self.column(state) {
            column.held_out = Some(value);
        }
    }
}

impl TrainingProgressLogger for EpochLines {
    fn start(&mut self, epochs: usize, _: usize, _: Option<usize>, _: Option<&str>) {
        self.epochs = epochs;
        self.started = Some(Instant::now());
    }

    fn update_epoch(&mut self, epoch: usize) {
        if !std::mem::replace(&mut self.headed, true) {
            println!("Of the training images | of the held-out images:");
        }
        println!("{}", self.line(epoch));
    }

    fn start_split(&mut self, _: &str, _: usize) {}
    fn update_split(&mut self, _: usize) {}
    fn end_split(&mut self) {}
    fn end(&mut self) {}
    fn log_event_training(&mut self, _: String) {}
}

impl MetricsRenderer for EpochLines {
    fn register_metric(&mut self, definition: MetricDefinition) {
        let unit = match definition.attributes {
            MetricAttributes::Numeric(attributes) => attributes.unit,
            MetricAttributes::None => None,
        };
        self.metrics.push(Column {
            id: definition.metric_id,
            name: definition.name.to_lowercase(),
            decimals: if unit.as_deref() == Some("%") { 1 } else { 3 },
            unit: unit.map(|unit| format!(" {unit}")).unwrap_or_default(),
            training: None,
            held_out: None,
        });
    }

    fn manual_close(&mut self) {}
}

// burn-train requires the trait of an evaluator too.
impl MetricsRendererEvaluation for EpochLines {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl EvaluationProgressLogger for EpochLines {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::train::metric::{MetricEntry, NumericAttributes, NumericEntry, SerializedEntry};

    use super::*;

    #[test]
    fn a_line_shows_the_last_value_of_each_metric() {
        let id = MetricId::new(Arc::new("Accuracy".to_string()));
        let mut lines = EpochLines {
            epochs: 20,
            ..EpochLines::default()
        };
        lines.register_metric(MetricDefinition {
            metric_id: id.clone(),
            name: Arc::new("Accuracy".to_string()),
            description: None,
            attributes: MetricAttributes::Numeric(NumericAttributes {
                unit: Some("%".to_string()),
                higher_is_better: true,
            }),
        });
        let state = |value| {
            let entry = SerializedEntry::new(String::new(), String::new());
            let entry = MetricEntry::new(id.clone(), entry);
            MetricState::Numeric(entry, Some(NumericEntry::Value(value)))
        };
        assert_eq!(lines.line(3), "epoch  3/20    0.0 s");
        lines.update_train(state(80.0));
        lines.update_train(state(90.25));
        lines.update_valid(state(85.0));
        assert_eq!(
            lines.line(3),
            "epoch  3/20    0.0 s   accuracy 90.2 | 85.0 %"
        );
    }
}
