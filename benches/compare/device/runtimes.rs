//! The runtimes by name: those that this build has, and the features that have the others.

use burn::tensor::Device;

/// A runtime that this build has.
#[derive(Clone, Copy)]
pub struct Runtime {
    pub name: &'static str,
    pub open: fn() -> Device,
}

/// A runtime, in this build or not.
struct Known {
    /// Of the runtime and of its Cargo feature.
    name: &'static str,
    open: Option<fn() -> Device>,
}

macro_rules! known {
    ($name:literal, $open:expr) => {{
        #[cfg(feature = $name)]
        let open: Option<fn() -> Device> = Some(|| $open);
        #[cfg(not(feature = $name))]
        let open = None;
        Known { name: $name, open }
    }};
}

fn known() -> [Known; 6] {
    #[cfg(feature = "wgpu")]
    use burn::tensor::DeviceKind::DefaultDevice;
    [
        known!("wgpu", Device::wgpu(DefaultDevice)),
        known!("vulkan", Device::vulkan(DefaultDevice)),
        known!("metal", Device::metal(DefaultDevice)),
        known!("webgpu", Device::webgpu(DefaultDevice)),
        known!("cuda", Device::cuda(0)),
        known!("rocm", Device::rocm(0)),
    ]
}

impl Runtime {
    pub fn named(name: &str) -> Result<Self, String> {
        let named = known().into_iter().find(|known| known.name == name);
        match named {
            Some(Known {
                name,
                open: Some(open),
            }) => Ok(Self { name, open }),
            Some(_) => Err(format!(
                "this build has {}; build with `--features {name}` for {name}",
                list(true, "no runtime")
            )),
            None => Err(format!(
                "there is no such runtime; this build has {}, and there are also {}, each by the \
                 Cargo feature of its name",
                list(true, "none"),
                list(false, "no others")
            )),
        }
    }
}

/// The runtimes that are in this build, or those that are not.
fn list(in_build: bool, if_empty: &str) -> String {
    let known = known().into_iter();
    let chosen = known.filter(|known| known.open.is_some() == in_build);
    let names: Vec<&str> = chosen.map(|known| known.name).collect();
    match names.is_empty() {
        true => if_empty.to_string(),
        false => names.join(", "),
    }
}
