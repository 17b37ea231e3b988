//! A quiet renderer for burn-train: a line per epoch, where its own prints one per batch.

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
}

/// One metric, and what it was last.
struct Column {
    id: MetricId,
    name: String,
    unit: String,
    training: Option<f64>,
    held_out: Option<f64>,
}

impl EpochLines {
    fn column(&mut self, state: MetricState) -> Option<(&mut Column, f64)> {
        let MetricState::Numeric(entry, Some(value)) = state else {
            return None;
        };
        let column = self.metrics.iter_mut();
        let column = column
            .into_iter()
            .find(|column| column.id == entry.metric_id)?;
        Some((column, value.current()))
    }

    fn line(&self, epoch: usize) -> String {
        let width = self.epochs.to_string().len();
        let seconds = self
            .started
            .map_or(0.0, |start| start.elapsed().as_secs_f64());
        let mut line = format!("epoch {epoch:width$}/{}  {seconds:5.1} s", self.epochs);
        for Column {
            name,
            unit,
            training,
            held_out,
            ..
        } in &self.metrics
        {
            if let (Some(training), Some(held_out)) = (training, held_out) {
                line += &format!("   {name} {training:.3}{unit}, held out {held_out:.3}{unit}");
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
            unit: unit.map(|unit| format!(" {unit}")).unwrap_or_default(),
            training: None,
            held_out: None,
        });
    }

    fn manual_close(&mut self) {}
}

// burn-train asks for the part of an evaluator as well.
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
