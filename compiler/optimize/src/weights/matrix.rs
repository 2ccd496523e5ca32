//! The constant operand of a product as a matrix: one row per result column, summed elements along it.

use lacuna_ir::{Op, Shape};

/// Where the elements of the matrix lie in the row-major constant.
///
/// Columns are the summed dimensions with the one that groups run along innermost: kernel positions, then input
/// channels, for a convolution. A group never crosses from one kernel position to the next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    shape: Shape,
    row_dims: Vec<usize>,
    outer_dims: Vec<usize>,
    /// The dimension that groups run along.
    pub axis: usize,
}

impl Layout {
    /// The layout of operand `operand`; `None` where the product has not exactly one dimension that groups may run
    /// along, or a convolution has groups.
    pub fn of(op: &Op, operand: usize, shape: &Shape) -> Option<Layout> {
        if let Op::Conv { attrs, .. } = op {
            if operand != 1 || attrs.groups != 1 {
                return None;
            }
            let dim = |i: usize| usize::from(attrs.w[i]);
            let outer_dims = (2..attrs.w.len()).map(dim).collect();
            return Some(Layout { shape: shape.clone(), row_dims: vec![dim(0)], outer_dims, axis: dim(1) });
        }
        let Op::Contract { map, .. } = op else { return None };
        let [label] = map.summed()[..] else { return None };
        let labels = [&map.a, &map.b][operand];
        let axis = labels.iter().position(|&l| l == label)?;
        let row_dims = (0..shape.rank()).filter(|&d| d != axis).collect();
        Some(Layout { shape: shape.clone(), row_dims, outer_dims: Vec::new(), axis })
    }

    /// The layout of the scales of groups of `size`: one column per group.
    pub fn scales(&self, size: usize) -> Layout {
        let mut layout = self.clone();
        layout.shape.0[self.axis] = layout.shape[self.axis].div_ceil(size as u64);
        layout
    }

    /// Elements along the dimension that groups run along.
    pub fn segment(&self) -> usize {
        self.shape[self.axis] as usize
    }

    /// Element numbers of the first element of each row, and what is added to them for each column.
    fn offsets(&self) -> (Vec<usize>, Vec<usize>) {
        let columns: Vec<usize> = self.outer_dims.iter().copied().chain([self.axis]).collect();
        (offsets(&self.shape, &self.row_dims), offsets(&self.shape, &columns))
    }

    /// The matrix of a constant's elements, row after row.
    pub fn gather<T: Copy>(&self, elements: &[T]) -> Vec<T> {
        let (rows, columns) = self.offsets();
        rows.iter().flat_map(|&r| columns.iter().map(move |&c| elements[r + c])).collect()
    }

    /// The constant's elements of a matrix.
    pub fn scatter<T: Copy + Default>(&self, matrix: &[T]) -> Vec<T> {
        let (rows, columns) = self.offsets();
        let mut elements = vec![T::default(); matrix.len()];
        let places = rows.iter().flat_map(|&r| columns.iter().map(move |&c| r + c));
        for (place, &value) in places.zip(matrix) {
            elements[place] = value;
        }
        elements
    }
}

/// Element numbers of all indices along `dims`, the last one fastest, at index 0 of the other dimensions.
pub fn offsets(shape: &Shape, dims: &[usize]) -> Vec<usize> {
    let strides = shape.strides();
    let mut all = vec![0];
    for &d in dims {
        all = all
            .iter()
            .flat_map(|&base| (0..shape[d]).map(move |i| (i, base)))
            .map(|(i, base)| base + (i * strides[d]) as usize)
            .collect();
    }
    all
}

/// Weights as rows of summed elements.
#[derive(Clone, PartialEq, Debug)]
pub struct Matrix {
    /// Elements of a row.
    pub k: usize,
    /// Elements of a row after which groups begin anew.
    pub segment: usize,
    /// The elements, row after row.
    pub values: Vec<f32>,
}

impl Matrix {
    /// The matrix of a constant's elements.
    pub fn new(layout: &Layout, elements: &[f64]) -> Matrix {
        let values: Vec<f32> = layout.gather(elements).into_iter().map(|v| v as f32).collect();
        let columns = layout.outer_dims.iter().map(|&d| layout.shape[d] as usize).product::<usize>();
        Matrix { k: columns * layout.segment(), segment: layout.segment(), values }
    }

    /// First column and length of every group of `size`, in order.
    pub fn groups(&self, size: usize) -> Vec<(usize, usize)> {
        let segments = (0..self.k).step_by(self.segment.max(1));
        let in_segment = |first: usize| {
            (0..self.segment).step_by(size).map(move |at| (first + at, size.min(self.segment - at)))
        };
        segments.flat_map(in_segment).collect()
    }
}
