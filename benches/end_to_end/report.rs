//! Tables on standard output, and in docs/PERFORMANCE.md between the marks of each part.

use std::fmt::Write as _;

use crate::{Outcome, document};

/// What was measured.
#[derive(Default)]
pub(crate) struct Report {
    parts: Vec<(&'static str, String)>,
    pictures: Vec<(&'static str, String)>,
}

/// A line of a plot.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Report {
    pub(crate) fn part(&mut self, name: &'static str, text: &str) {
        println!("{text}");
        self.parts.push((name, text.to_owned()));
    }

    pub(crate) fn picture(&mut self, name: &'static str, svg: String) {
        self.pictures.push((name, svg));
    }

    /// Replaces the parts that were measured; the others stay, with what they say of their own run.
    pub(crate) fn write(&self) -> Outcome<()> {
        document::write(&self.parts)?;
        for (name, svg) in &self.pictures {
            std::fs::write(document::folder().join("pictures").join(name), svg)?;
        }
        Ok(())
    }
}

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 52.0;
const TOP: f64 = 34.0;
/// Dark enough on white and light enough on black.
const COLOURS: [&str; 2] = ["#2f7fd1", "#d1752f"];

/// Panels beside each other, both axes logarithmic.
pub(crate) fn plot(panels: &[(&str, &[Series])], below: &str) -> String {
    let (width, height) = ((WIDTH + LEFT + 20.0) * panels.len() as f64, HEIGHT + TOP + 62.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"#777\">\n"
    );
    for (number, (title, series)) in panels.iter().enumerate() {
        let left = number as f64 * (WIDTH + LEFT + 20.0) + LEFT;
        let points = || series.iter().flat_map(|s| &s.points).filter(|p| p.0 > 0.0 && p.1 > 0.0);
        let range = |of: fn(&(f64, f64)) -> f64| {
            let (low, high) =
                points().map(of).fold((f64::MAX, 1e-9), |(l, h), v| (v.min(l), v.max(h)));
            (low.log10().floor(), high.log10().ceil().max(low.log10().floor() + 1.0))
        };
        let ((x0, x1), (y0, y1)) = (range(|p| p.0), range(|p| p.1));
        let x = |v: f64| left + (v.log10() - x0) / (x1 - x0) * WIDTH;
        let y = |v: f64| TOP + HEIGHT - (v.log10() - y0) / (y1 - y0) * HEIGHT;
        let _ = writeln!(svg, "<text x=\"{left}\" y=\"18\" font-size=\"13\">{title}</text>");
        let mut line = |xs: (f64, f64), ys: (f64, f64)| {
            let _ = writeln!(
                svg,
                "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"#999\" stroke-opacity=\".4\"/>",
                xs.0, ys.0, xs.1, ys.1
            );
        };
        let powers = |from: f64, to: f64| (from as i32..=to as i32).map(|p| 10_f64.powi(p));
        for v in powers(x0, x1) {
            line((x(v), x(v)), (TOP, TOP + HEIGHT));
        }
        for v in powers(y0, y1) {
            line((left, left + WIDTH), (y(v), y(v)));
        }
        for v in powers(x0, x1) {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{v}</text>",
                x(v),
                TOP + HEIGHT + 16.0
            );
        }
        for v in powers(y0, y1) {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{v}</text>",
                left - 6.0,
                y(v) + 4.0
            );
        }
        let middle = left + WIDTH / 2.0;
        let _ = writeln!(
            svg,
            "<text x=\"{middle:.1}\" y=\"{}\" text-anchor=\"middle\">{below}</text>",
            TOP + HEIGHT + 32.0
        );
        for (n, (series, colour)) in series.iter().zip(COLOURS).enumerate() {
            let path: Vec<String> = series
                .points
                .iter()
                .filter(|p| p.0 > 0.0 && p.1 > 0.0)
                .map(|p| format!("{:.1} {:.1}", x(p.0), y(p.1)))
                .collect();
            let _ = writeln!(
                svg,
                "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join("L")
            );
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" fill=\"{colour}\">{}</text>",
                left + 180.0 * n as f64,
                TOP + HEIGHT + 50.0,
                series.name
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}
