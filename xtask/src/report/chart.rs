//! docs/report.svg: the modelled ratios to the plain product.

use std::error::Error;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::bound::{DECODE, LAYER, WAYS};
use lora_kernels_report::bound::{Demands, LIMIT, PEFT, THREE_LAUNCHES};

const SIZE: (u32, u32) = (1020, 420);
const HEAD: u32 = 72;
const TITLE: &str = "Modelled time over the plain product's, bf16, rank 16";

/// A group of bars: the layer and the pass, and its heading.
const PANELS: [(&str, &str, &str); 3] = [
    (LAYER, "forward", "forward, 8192 tokens, 4096 to 4096"),
    (LAYER, "backward", "backward, 8192 tokens, 4096 to 4096"),
    (DECODE, "decode", "decode, 1 token, 4096 to 4096"),
];

/// Distinguishable with any colour vision (Okabe and Ito), and on a page of either brightness by
/// the chart's own background.
fn colour(who: &str) -> RGBColor {
    match who {
        THREE_LAUNCHES => RGBColor(230, 159, 0),
        PEFT => RGBColor(204, 121, 167),
        LIMIT => RGBColor(110, 110, 110),
        _ => RGBColor(0, 114, 178),
    }
}

/// The ratio of each way on each device, by panel.
fn ratios(demands: &[Demands], layer: &str, pass: &str) -> Vec<(&'static str, [f64; 4])> {
    let of = |demands: &Demands| {
        let ratios = WAYS.map(|who| {
            let demand = demands.find(who, layer, pass);
            demand.and_then(|demand| demands.over_plain(demand))
        });
        let [Some(a), Some(b), Some(c), Some(d)] = ratios else {
            return None;
        };
        Some((demands.rates()?.name, [a, b, c, d]))
    };
    demands.iter().filter_map(of).collect()
}

/// The same in words, for those who don't see the picture.
pub fn description(demands: &[Demands]) -> String {
    let panels = PANELS.map(|(layer, pass, heading)| {
        let devices = ratios(demands, layer, pass);
        let devices = devices.iter().map(|(device, ratios)| {
            let ways = WAYS.iter().zip(ratios);
            let ways = ways.map(|(who, ratio)| format!("{who} {ratio:.2}"));
            format!("{device}: {}", ways.collect::<Vec<_>>().join(", "))
        });
        format!("{heading}. {}.", devices.collect::<Vec<_>>().join("; "))
    });
    format!("{TITLE}. {}", panels.join(" "))
}

pub fn svg(demands: &[Demands]) -> Result<String, Box<dyn Error>> {
    let mut picture = String::new();
    {
        let root = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(HEAD);
        head.draw_text(TITLE, &("sans-serif", 18).into_text_style(&head), (16, 12))?;
        for (index, who) in WAYS.into_iter().enumerate() {
            let left = 16 + 150 * index as i32;
            let mark = [(left, 44), (left + 14, 58)];
            head.draw(&Rectangle::new(mark, colour(who).filled()))?;
            let style = ("sans-serif", 14).into_text_style(&head);
            head.draw_text(who, &style, (left + 20, 45))?;
        }
        let panels = PANELS.map(|(layer, pass, _)| ratios(demands, layer, pass));
        let all = panels.iter().flatten().flat_map(|(_, ratios)| *ratios);
        let most = 118.0 * (all.fold(1.1, f64::max) - 1.0);
        for (area, ((_, _, heading), devices)) in body
            .split_evenly((1, 3))
            .iter()
            .zip(PANELS.iter().zip(&panels))
        {
            draw(area, heading, devices, most)?;
        }
        root.present()?;
    }
    Ok(with_text(&picture, &description(demands)))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Bars from the plain product's time, which is 0 %, up to `most` per cent beyond it.
fn draw(
    panel: &Area<'_>,
    heading: &str,
    devices: &[(&str, [f64; 4])],
    most: f64,
) -> Result<(), Box<dyn Error>> {
    let mut chart = ChartBuilder::on(panel)
        .caption(heading, ("sans-serif", 14))
        .margin(10)
        .x_label_area_size(24)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..devices.len() as f64, 0.0..most)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .max_light_lines(0)
        .y_desc("beyond the plain product, %")
        .y_label_formatter(&|percent: &f64| format!("{percent:.0}"))
        .label_style(("sans-serif", 12))
        .draw()?;
    let below = Pos::new(HPos::Center, VPos::Top);
    let name = ("sans-serif", 13).into_text_style(panel).pos(below);
    // Upwards, since a number is wider than a bar.
    let above = Pos::new(HPos::Left, VPos::Center);
    let number = ("sans-serif", 10).into_text_style(panel).pos(above);
    let number = number.transform(FontTransform::Rotate270);
    for (index, (device, ratios)) in devices.iter().enumerate() {
        let left = index as f64 + 0.08;
        let width = 0.84 / ratios.len() as f64;
        for (bar, (who, ratio)) in WAYS.into_iter().zip(ratios).enumerate() {
            let (from, height) = (left + bar as f64 * width, 100.0 * (ratio - 1.0));
            let corners = [(from, 0.0), (from + 0.92 * width, height)];
            chart.draw_series([Rectangle::new(corners, colour(who).filled())])?;
            let place = (from + 0.46 * width, height.max(0.0) + 0.01 * most);
            let label = Text::new(format!("{ratio:.2}"), place, number.clone());
            chart.draw_series([label])?;
        }
        let place = (index as f64 + 0.5, -0.03 * most);
        chart.draw_series([Text::new((*device).to_owned(), place, name.clone())])?;
    }
    Ok(())
}

/// The picture with its title and description, which screen readers read.
fn with_text(picture: &str, description: &str) -> String {
    let escaped = description.replace('&', "&amp;").replace('<', "&lt;");
    match picture.split_once("<svg ") {
        Some((before, rest)) => match rest.split_once('>') {
            Some((attributes, rest)) => format!(
                "{before}<svg role=\"img\" aria-labelledby=\"title description\" {attributes}>\n\
                 <title id=\"title\">{TITLE}</title>\n\
                 <desc id=\"description\">{escaped}</desc>{rest}"
            ),
            None => picture.to_owned(),
        },
        None => picture.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lora_kernels_report::bound::{Demand, PLAIN, Work};
    use lora_kernels_report::document::OURS;
    use lora_kernels_report::rates::Rates;

    fn demands() -> Vec<Demands> {
        let on = |rates: &Rates| {
            let mut passes = Vec::new();
            for (layer, pass, _) in PANELS {
                for (factor, who) in [1.0, 1.25, 1.5, 1.75, 1.0].iter().zip([
                    PLAIN,
                    OURS,
                    THREE_LAUNCHES,
                    PEFT,
                    LIMIT,
                ]) {
                    passes.push(Demand {
                        who: who.to_owned(),
                        layer: layer.to_owned(),
                        pass: pass.to_owned(),
                        launches: vec![Work {
                            dram_bytes: 1e15 * factor,
                            ..Work::default()
                        }],
                        waits_us: 0.0,
                    });
                }
            }
            Demands {
                device: rates.key.to_owned(),
                passes,
                decode: Vec::new(),
                waves: Vec::new(),
            }
        };
        Rates::ALL.iter().map(on).collect()
    }

    #[test]
    fn every_device_pass_and_way_is_drawn_and_told() {
        let demands = demands();
        let picture = svg(&demands).expect("a picture");
        let bars = picture.matches("#0072B2").count();
        // Four devices in three panels, and the legend.
        assert_eq!(bars, 13);
        for part in ["<title id=", "role=\"img\"", "H200", "three launches", "%"] {
            assert!(picture.contains(part), "{part}");
        }
        let text = description(&demands);
        let told = "H100: lora-kernels 1.25, three launches 1.50, PEFT 1.75, limit 1.00";
        assert_eq!(text.matches(told).count(), 3);
    }
}
