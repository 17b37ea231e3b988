//! What is compared in a problem of the contrastive losses: each query with its keys, for the loops of
//! [`by_hand`](crate::by_hand).

use burn::nn::loss::Reduction;
use burn_cross_entropy::contrastive::SupCon;

use crate::by_hand::{Contrast, Key, Place, Query, Rows, Value};
use crate::contrastive::{Case, Form, NONE, Sizes, Told};

impl Case {
    /// The problem as queries and their keys.
    pub fn contrast(&self) -> Contrast {
        let split = |tensor: &Vec<f64>| -> Rows {
            let rows = tensor.chunks(self.sizes.features);
            rows.map(<[f64]>::to_vec).collect()
        };
        let mut queries = self.queries();
        if !self.form.is_sig_lip() {
            // A row without a positive is ignored.
            queries.retain(|query| query.keys.iter().any(|key| key.is_positive));
        }
        if !matches!(self.config.reduction, Reduction::Sum) {
            let share = 1.0 / queries.len() as f64;
            queries.iter_mut().for_each(|query| query.share = share);
        } else if self.form == Form::Symmetric {
            queries.iter_mut().for_each(|query| query.share = 0.5);
        }
        Contrast {
            tensors: self.tensors.iter().map(split).collect(),
            queries,
            value: match self.config.sup_con {
                _ if self.form.is_sig_lip() => Value::Sigmoid { bias: self.bias },
                SupCon::Out => Value::Out,
                SupCon::In => Value::In,
            },
            scale: 1.0 / self.config.temperature,
            margin: self.config.margin,
            above: self.config.exclude_above,
            normalize: self.config.normalize,
        }
    }

    fn queries(&self) -> Vec<Query> {
        let Sizes { rows, keys, .. } = self.sizes;
        let all = 0..rows;
        match self.form {
            Form::Momentum => all.map(|row| self.beside_its_positive(row)).collect(),
            Form::OneSided => self.across(0, 1).collect(),
            Form::Symmetric => self.across(0, 1).chain(self.across(1, 0)).collect(),
            Form::NtXent => self.both_views(),
            Form::Labels => {
                let of_memory = (0..keys).map(|key| (1, key));
                let places: Vec<Place> = all.clone().map(|row| (0, row)).chain(of_memory).collect();
                let labels: Vec<i64> = self.labels.concat();
                all.map(|row| {
                    let others = (0..places.len()).filter(|key| *key != row);
                    let keys = others.map(|key| (places[key], labels[key] == labels[row]));
                    self.query((0, row), keys)
                })
                .collect()
            }
            Form::Pairs => all
                .map(|row| {
                    let of_positive = self.positives[row];
                    let keys = (0..keys).map(|key| ((1, key), key as i64 == of_positive));
                    let mut query = self.query((0, row), keys);
                    self.leave_out(&mut query, (0, 1));
                    self.add_own(&mut query);
                    query
                })
                .collect(),
            Form::Several | Form::SigLip | Form::SigLipPairs | Form::SigLipSeveral => all
                .map(|row| {
                    let keys = (0..keys).map(|key| ((1, key), self.belongs(row, key)));
                    self.query((0, row), keys)
                })
                .collect(),
        }
    }

    fn query(&self, query: Place, keys: impl Iterator<Item = (Place, bool)>) -> Query {
        let key = |(place, is_positive): (Place, bool)| Key {
            place,
            is_positive,
            log_q: self.log_q_of(place),
        };
        Query {
            query,
            keys: keys.map(key).collect(),
            share: 1.0,
        }
    }

    /// A query, its positive, and the common negatives.
    fn beside_its_positive(&self, row: usize) -> Query {
        let negatives = (0..self.sizes.keys).map(|key| ((2, key), false));
        let positive = [((1, row), true)];
        let mut query = self.query((0, row), positive.into_iter().chain(negatives));
        self.leave_out(&mut query, (0, 2));
        self.add_own(&mut query);
        query
    }

    /// The queries of one view: all rows of the other are keys, of which the same row is the positive.
    fn across(&self, from: usize, to: usize) -> impl Iterator<Item = Query> {
        (0..self.sizes.rows).map(move |row| {
            let keys = (0..self.sizes.rows).map(|key| ((to, key), key == row));
            let mut query = self.query((from, row), keys);
            self.leave_out(&mut query, (0, 1));
            self.add_own(&mut query);
            query
        })
    }

    /// The queries of both views as one batch.
    fn both_views(&self) -> Vec<Query> {
        let rows = self.sizes.rows;
        let place = |row: usize| (row / rows, row % rows);
        (0..2 * rows)
            .map(|row| {
                let others = (0..2 * rows).filter(|other| *other != row);
                let keys = others.map(|other| (place(other), other % rows == row % rows));
                let mut query = self.query(place(row), keys);
                self.leave_out(&mut query, (0, 1));
                query
            })
            .collect()
    }

    /// Leaves out the negatives that have the id of the query. The tensors that the ids of rows and of keys are of are
    /// given; those of two views are of rows on both sides.
    fn leave_out(&self, query: &mut Query, (of_rows, of_keys): (usize, usize)) {
        let Some(ids) = &self.ids else {
            return;
        };
        let id = |(tensor, row): Place| match tensor {
            tensor if tensor == of_rows => Some(ids[0][row]),
            tensor if tensor == of_keys => Some(ids[1][row]),
            _ => None,
        };
        let own = id(query.query);
        query
            .keys
            .retain(|key| key.is_positive || id(key.place) != own);
    }

    /// Adds the negatives of the query alone.
    fn add_own(&self, query: &mut Query) {
        let Some(own) = &self.own else {
            return;
        };
        let first = query.query.1 * own.count;
        let is_there = |at: &usize| own.mask.as_ref().is_none_or(|mask| mask[*at]);
        let negatives = (first..first + own.count).filter(is_there);
        query.keys.extend(negatives.map(|at| Key {
            place: (self.tensors.len() - 1, at),
            is_positive: false,
            log_q: 0.0,
        }));
    }

    /// The logarithm of the probability that a key is drawn.
    fn log_q_of(&self, (tensor, row): Place) -> f64 {
        let Some(log_q) = &self.log_q else {
            return 0.0;
        };
        let at = match self.form {
            // The first tensor has no keys.
            Form::Momentum | Form::Pairs | Form::Several => tensor - 1,
            _ => tensor,
        };
        log_q[at][row]
    }

    /// Whether a row and a key belong together, where several may.
    pub fn belongs(&self, row: usize, key: usize) -> bool {
        match (self.form, self.told) {
            (Form::SigLip, _) => row == key,
            (Form::SigLipPairs, _) => self.positives[row] == key as i64,
            (_, Told::Labels) => self.labels[0][row] == self.labels[1][key],
            (_, Told::Indices | Told::Mask) => self.mask[row * self.sizes.keys + key],
        }
    }

    /// The numbers of the keys that belong to each row, filled up to as many numbers in each row, and that number.
    pub fn indices(&self) -> (Vec<i64>, usize) {
        let Sizes { rows, keys, .. } = self.sizes;
        let of_row = |row: usize| -> Vec<i64> {
            let belonging = (0..keys).filter(|key| self.belongs(row, *key));
            belonging.map(|key| key as i64).collect()
        };
        let mut indices: Vec<Vec<i64>> = (0..rows).map(of_row).collect();
        let longest = indices.iter().map(Vec::len).max().unwrap_or(0).max(1);
        indices.iter_mut().for_each(|row| row.resize(longest, NONE));
        (indices.concat(), longest)
    }
}
