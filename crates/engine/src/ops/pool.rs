//! Pooling: the maximum, or the average of the pixels inside the image, over a window. `[n, h, w, c]` →
//! `[n, h', w', c]`.

use super::conv::{Conv, Padding};
use crate::graph::{Graph, Var};
use crate::kernel::Kernel;
use crate::program::Differentiation;
use crate::shape::Shape;

/// A pooling window; its pixels outside the image do not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pool {
    /// Rows of the window.
    pub kernel_h: usize,
    /// Columns of the window.
    pub kernel_w: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Rows and columns by which the window may reach over the image's edge; less than the window.
    pub padding: Padding,
}

impl Pool {
    /// The window as a convolution's geometry.
    pub(crate) fn geometry(&self) -> Conv {
        Conv { kernel_h: self.kernel_h, kernel_w: self.kernel_w, stride: self.stride, padding: self.padding }
    }
}

impl Graph {
    /// The maximum of each window. Where several pixels share it, the gradient goes to the first.
    pub fn max_pool(&mut self, x: Var, pool: Pool) -> Var {
        self.pool(Kernel::MaxPool(pool), x, pool)
    }

    /// The average of each window's pixels inside the image.
    pub fn avg_pool(&mut self, x: Var, pool: Pool) -> Var {
        self.pool(Kernel::AvgPool(pool), x, pool)
    }

    /// The average over all pixels, `[n, 1, 1, c]`.
    pub fn global_avg_pool(&mut self, x: Var) -> Var {
        let Shape { h, w, .. } = self.shape(x);
        self.avg_pool(x, Pool { kernel_h: h, kernel_w: w, stride: 1, padding: Padding::NONE })
    }

    fn pool(&mut self, kernel: Kernel, x: Var, pool: Pool) -> Var {
        let shape = self.shape(x);
        let Padding { top, bottom, left, right } = pool.padding;
        assert!(
            top.max(bottom) < pool.kernel_h && left.max(right) < pool.kernel_w,
            "a window could be empty"
        );
        let (h, w) = pool.geometry().output_size(shape.h, shape.w);
        self.record_values(kernel, &[x], Shape { h, w, ..shape })
    }
}

pub(crate) fn gradient_of_max_pool(pool: Pool, d: &mut Differentiation) {
    let reads = vec![d.operand(0), d.output_gradient()];
    d.emit_gradient(Kernel::MaxPoolGrad(pool), reads, &[0]);
}

pub(crate) fn gradient_of_avg_pool(pool: Pool, d: &mut Differentiation) {
    let dy = d.output_gradient();
    d.emit_gradient(Kernel::AvgPoolGrad(pool), vec![dy], &[0]);
}
