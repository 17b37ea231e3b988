//! Flex, Burn's CPU backend.

use burn_flex::Flex;

use super::CrossEntropyBackend;

impl CrossEntropyBackend for Flex {}
