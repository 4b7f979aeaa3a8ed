//! Settings of the DRAM traffic model: it is off unless asked for, and its L2 stays from launch to
//! launch.

use crate::device::DeviceModel;
use crate::l2::{DramModel, usable_bytes};

/// The settings' names.
pub(super) const NAMES: [&str; 3] = ["dram", "dram_l2_bytes", "dram_blocks"];

pub(super) struct Dram {
    on: bool,
    /// In place of what [`usable_bytes`] gives the model of the device's L2.
    l2_bytes: Option<u64>,
    /// Blocks on one multiprocessor, in place of what fits there.
    blocks: Option<u32>,
    /// Made when a launch needs it. Without it the L2 is empty.
    model: Option<DramModel>,
}

impl Dram {
    pub const OFF: Dram = Dram {
        on: false,
        l2_bytes: None,
        blocks: None,
        model: None,
    };

    /// Changes one of [`NAMES`].
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let own = value == "device";
        match (name, value) {
            ("dram", "on") => self.on = true,
            ("dram", "off") => (self.on, self.model) = (false, None),
            ("dram", "flush") => self.model = None,
            ("dram", _) => return Err("this is none of on, off, flush".to_owned()),
            ("dram_l2_bytes", _) => {
                let bytes = value.parse();
                if bytes.is_err() && !own {
                    return Err("a number of bytes or device is wanted".to_owned());
                }
                (self.l2_bytes, self.model) = (bytes.ok(), None);
            }
            ("dram_blocks", _) => {
                let blocks = value.parse().ok().filter(|&blocks| blocks > 0);
                if blocks.is_none() && !own {
                    return Err("a number of blocks from 1 on or device is wanted".to_owned());
                }
                self.blocks = blocks;
            }
            _ => return Err(format!("there is no setting {name}")),
        }
        Ok(())
    }

    /// The model for the next launch.
    pub fn model(&mut self, device: &DeviceModel) -> Option<DramModel> {
        if !self.on {
            return None;
        }
        let bytes = self
            .l2_bytes
            .unwrap_or_else(|| usable_bytes(device.l2_bytes));
        let model = self
            .model
            .get_or_insert_with(|| DramModel::new(bytes))
            .clone();
        Some(DramModel {
            blocks_per_multiprocessor: self.blocks,
            ..model
        })
    }
}
