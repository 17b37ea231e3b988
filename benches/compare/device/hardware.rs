//! The properties of a device that CubeCL reports.

use std::fmt::{self, Display};

use burn::tensor::Device;

pub struct Hardware {
    name: String,
    /// The runtime, with the language that its kernels are compiled from.
    runtime: String,
    multiprocessors: Option<u32>,
    /// The smallest and the largest number of units in a plane.
    plane: [u32; 2],
    memory: Option<u64>,
    /// Bytes of the largest possible buffer.
    pub largest_buffer: u64,
}

impl Hardware {
    #[cfg(feature = "cube")]
    pub fn of(device: &Device) -> Self {
        let burn::backend::DispatchDevice::Cube(device) = device.as_dispatch() else {
            unreachable!("every runtime is CubeCL's")
        };
        let client = device.client();
        let properties = client.properties();
        let hardware = &properties.hardware;
        Self {
            name: properties.identity.name.clone(),
            runtime: client.name().to_string(),
            multiprocessors: hardware.num_streaming_multiprocessors,
            plane: [hardware.plane_size_min, hardware.plane_size_max],
            memory: properties.memory.max_memory(),
            largest_buffer: properties.memory.max_page_size,
        }
    }

    #[cfg(not(feature = "cube"))]
    pub fn of(_: &Device) -> Self {
        unreachable!("a build without a runtime opens no device")
    }
}

impl Display for Hardware {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}, {}", self.name, self.runtime)?;
        if let Some(count) = self.multiprocessors {
            write!(formatter, ", multiprocessors: {count}")?;
        }
        match self.plane {
            [least, most] if least == most => write!(formatter, ", units of a plane: {most}")?,
            [least, most] => write!(formatter, ", units of a plane: {least} to {most}")?,
        }
        if let Some(memory) = self.memory {
            write!(formatter, ", memory: {}", megabytes(memory))?;
        }
        write!(
            formatter,
            ", largest buffer: {}",
            megabytes(self.largest_buffer)
        )
    }
}

pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
