//! The dtypes of each device, on which other tests rely when they leave out a dtype. A device that has more
//! or fewer dtypes than these fails here.

use burn::tensor::{DType, Device};

use crate::common::backends::on_every_backend;

const FLOATS: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];
const INTS: [DType; 8] = [
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U64,
    DType::U32,
    DType::U16,
    DType::U8,
];

/// The dtypes that Burn gives the backend, and for a shader language those that the adapter offers. On an
/// adapter without f16 the tests of half precision have nothing to compute.
fn expected(device: &Device) -> (&'static [DType], Vec<DType>) {
    let name = format!("{device:?}");
    if name.contains("NdArray") {
        (&FLOATS[..2], INTS.to_vec())
    } else if name.contains("Wgpu") {
        let ints = [DType::I64, DType::I32, DType::U64, DType::U32];
        (&FLOATS[..3], ints.to_vec())
    } else {
        (&FLOATS, INTS.to_vec())
    }
}

fn the_device_has_the_dtypes_that_tests_count_on(device: &Device) {
    let has = |dtypes: &[DType]| -> Vec<DType> {
        let has = dtypes.iter().filter(|dtype| device.supports_dtype(**dtype));
        has.copied().collect()
    };
    let (floats, ints) = expected(device);
    assert_eq!(has(&FLOATS), floats, "{device:?}");
    assert_eq!(has(&INTS), ints, "{device:?}");
}

on_every_backend!(the_device_has_the_dtypes_that_tests_count_on);
