//! Rows as panels of sixteen values side by side, which is how products of them are computed. What is left
//! of the last panel is 0.

use lapidary_formats::quant::Row;

use crate::kernels::Cpu;

/// Sixteen rows side by side, `[rows / 16, width]`.
pub struct RowPanels {
    panels: Vec<Row>,
    width: usize,
}

impl RowPanels {
    /// All 0.
    pub fn zeros(rows: usize, width: usize) -> Self {
        Self { panels: vec![Row::default(); rows.div_ceil(16) * width], width }
    }

    /// The panels of `rows`, `width` values each.
    pub fn new<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, width: usize) -> Self {
        let mut all = Self::zeros(rows.len(), width);
        for (i, row) in rows.enumerate() {
            fill(all.panel_mut(i / 16), i % 16, row);
        }
        all
    }

    /// The panels of rows `x`, `[n, width]`, made by all threads.
    pub fn on(cpu: &Cpu, x: &[f32], width: usize) -> Self {
        let mut all = Self::zeros(x.len() / width, width);
        let panels = all.panels.chunks_exact_mut(width);
        cpu.for_each(panels.zip(x.chunks(16 * width)), |(panel, rows)| {
            let rows = rows.chunks_exact(width).enumerate();
            rows.for_each(|(lane, row)| fill(panel, lane, row));
        });
        all
    }

    /// A panel, `[width]`.
    pub fn panel(&self, i: usize) -> &[Row] {
        &self.panels[i * self.width..][..self.width]
    }

    /// A panel, `[width]`.
    pub fn panel_mut(&mut self, i: usize) -> &mut [Row] {
        &mut self.panels[i * self.width..][..self.width]
    }

    /// Adds a row to `to`, `[width]` or less.
    pub fn add_row(&self, row: usize, to: &mut [f32]) {
        to.iter_mut().zip(self.panel(row / 16)).for_each(|(to, x)| *to += x.0[row % 16]);
    }
}

fn fill(panel: &mut [Row], lane: usize, row: &[f32]) {
    panel.iter_mut().zip(row).for_each(|(to, x)| to.0[lane] = *x);
}

/// Sixteen columns side by side, `[width / 16, height]`.
pub struct ColumnPanels {
    panels: Vec<Row>,
    /// The number of rows, made a multiple of 16.
    height: usize,
}

impl ColumnPanels {
    /// All 0.
    pub fn zeros(rows: usize, width: usize) -> Self {
        let height = rows.next_multiple_of(16);
        Self { panels: vec![Row::default(); width.div_ceil(16) * height], height }
    }

    /// The panels of `rows`, `width` values each.
    pub fn new<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, width: usize) -> Self {
        let mut all = Self::zeros(rows.len(), width);
        for (i, row) in rows.enumerate() {
            for (panel, x) in all.panels.chunks_exact_mut(all.height).zip(row.chunks(16)) {
                panel[i].0[..x.len()].copy_from_slice(x);
            }
        }
        all
    }

    /// The panels, `[height]` each.
    pub fn iter(&self) -> impl Iterator<Item = &[Row]> {
        self.panels.chunks_exact(self.height)
    }

    /// The panels, `[height]` each.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut [Row]> {
        self.panels.chunks_exact_mut(self.height)
    }

    /// Adds a row to `to`, `[width]`.
    pub fn add_row(&self, row: usize, to: &mut [f32]) {
        for (to, panel) in to.chunks_mut(16).zip(self.iter()) {
            to.iter_mut().zip(panel[row].0).for_each(|(to, x)| *to += x);
        }
    }
}
