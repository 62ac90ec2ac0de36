"""The loops of a Winograd convolution: transform tiles of the input, multiply by position, transform back and store."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx import For, ForKind, PrimFunc, Stmt

from ....compiler.schedule.op_spec import OpSpec
from ...shared.conv_operands import Operands
from ...shared.conv_shape import ConvShape
from ...shared.index_math import (
    bound,
    bound_all,
    ceil_div,
    minimum,
    prefetch_l2,
    ramp,
    ranged,
    splat,
    split_index,
    when,
)
from ...shared.tir_loops import Index, i64, seq, store
from .conv2d_winograd_plan import LINE, WinogradPlan
from .tile_builder import ROLLED_EPILOGUE_STEPS, RegisterTile, on_stack
from .winograd_transforms import POINTS, linear_program, toom_cook


class WinogradNest:
    """Generates the kernel of one Winograd convolution.

    Scratch of a work item: `data` is [positions][tiles][channels], `product` [positions][blocks][tiles][width], `half`
    a tile of vectors between the two steps of a transform, followed by a copy of a tile at the image's border with
    zeros outside. All live as long as the item: TVM would put accumulators into a scratch buffer that is no longer
    needed, and LLVM cannot keep those in registers (1.6 times the time).
    """

    def __init__(self, op: OpSpec, conv: ConvShape, plan: WinogradPlan, parallel: bool):
        self.op, self.conv, self.plan, self.parallel = op, conv, plan, parallel
        self.operands = Operands(op, {1: plan.size})
        self.batch = self.operands.size(conv.batch)
        self.in_h, self.in_w = (int(d) for d in conv.size)
        self.out_h, self.out_w = (int(d) for d in conv.out_size)
        self.grid = (-(-self.out_h // plan.m), -(-self.out_w // plan.m))
        self.total = self.batch * (self.grid[0] * self.grid[1])
        self.data = self._scratch(plan.positions * plan.data_pitch, "data")
        self.product = self._scratch(plan.positions * plan.product_pitch, "product")
        self.half = self._scratch(2 * plan.positions * plan.lanes, "half")
        matrices = toom_cook(plan.m, POINTS[plan.m])
        self.data_program = linear_program(matrices.data)
        self.output_program = linear_program(matrices.output)

    @staticmethod
    def _scratch(size: int, name: str) -> tirx.Buffer:
        return tirx.decl_buffer((size,), "float32", name, scope="global")

    def build(self) -> PrimFunc:
        """The kernel as a PrimFunc."""
        extents = [ceil_div(self.total, self.plan.tiles), self.plan.parts]
        items = extents[0] * extents[1]
        if isinstance(items, int) and items == 1:
            return self.operands.function(self._item([0, 0]))
        var = tirx.Var("item", "int64")
        kind = ForKind.PARALLEL if self.parallel else ForKind.SERIAL
        body = bound_all(["tile_block", "part"], split_index(var, extents), self._item)
        return self.operands.function(For(var, i64(0), i64(items), kind, body))

    def _item(self, coords: list[Index]) -> Stmt:
        block, part = coords
        plan = self.plan

        def body(at: list[Index]) -> Stmt:
            first, count = at
            rows = plan.tiles if plan.tiles == plan.rows else ceil_div(count, plan.rows) * plan.rows
            passes = ranged("pass", part * plan.passes, plan.passes, lambda p: self._pass(first, count, p))
            buffers = (self.data, self.product, self.half)
            return seq(*(tirx.AllocBuffer(b) for b in buffers), self._transform_tiles(first, count, rows), passes)

        even = isinstance(self.total, int) and self.total % plan.tiles == 0
        count = plan.tiles if even else minimum(plan.tiles, self.total - block * plan.tiles)
        return bound_all(["first", "count"], [block * plan.tiles, count], body)

    def _locate(self, tile: Index) -> list[Index]:
        """Batch, first output row and column of a tile."""
        batch, row, col = split_index(tile, [self.batch, *self.grid])
        return [batch, row * self.plan.m, col * self.plan.m]

    # Input transform

    def _transform_tiles(self, first: Index, count: Index, rows: Index) -> Stmt:
        """Transform `count` tiles from `first` on; rows up to `rows` become zeros, so that no garbage is multiplied."""
        plan = self.plan
        tiles = ranged("t", 0, count, lambda t: self._transform_tile(first, t))
        if isinstance(count, int) and count == plan.tiles:
            return tiles
        nothing = tirx.const(0.0, "float32")

        def clear(p: Index) -> Stmt:
            base = p * plan.data_pitch + count * plan.row_pitch
            return ranged("z", 0, (rows - count) * plan.row_pitch, lambda z: store(self.data, [base + z], nothing))

        return seq(tiles, ranged("p", 0, plan.positions, clear))

    def _transform_tile(self, first: Index, t: Index) -> Stmt:
        edge, pad, channels = self.plan.edge, self.conv.pad, self.plan.channels
        lanes = self.plan.lanes

        def located(at: list[Index]) -> Stmt:
            batch, row, col = at
            return bound_all(
                ["top", "left", "base"],
                [
                    row - pad[0],
                    col - pad[1],
                    ((batch * self.in_h + row - pad[0]) * self.in_w + col - pad[1]) * channels,
                ],
                placed,
            )

        def placed(at: list[Index]) -> Stmt:
            top, left, base = at
            # An image smaller than a patch has no inner tiles.
            inside = min(self.in_h, self.in_w) >= edge and tirx.all(
                i64(top) >= 0,
                i64(top) <= self.in_h - edge,
                i64(left) >= 0,
                i64(left) <= self.in_w - edge,
            )

            def vector(v: Index) -> Stmt:
                # The last vector overlaps the one before if the channels do not fill it.
                c = v * lanes if channels % lanes == 0 else minimum(v * lanes, channels - lanes)
                return bound("c", c, lambda c: seq(self._rows_of_patch(top, left, base + c, inside), columns(c)))

            def columns(c: Index) -> Stmt:
                return bound("to", t * self.plan.row_pitch + c, self._columns_of_data)

            return ranged("v", 0, -(-channels // lanes), vector)

        return bound_all(["batch", "row", "col"], self._locate(first + t), located)

    def _rows_of_patch(self, top: Index, left: Index, base: Index, inside: tirx.Expr | bool) -> Stmt:
        """half = B^T d for one vector of channels, column by column; `base` is the patch's offset in the input."""
        edge, lanes, channels = self.plan.edge, self.plan.lanes, self.plan.channels
        image = self.operands.data

        def direct(j: Index) -> Stmt:
            return self._apply(
                self.data_program,
                lambda i: tirx.BufferLoad(image, [ramp(base + j * channels + i * (self.in_w * channels), lanes)]),
                lambda i, x: store(self.half, [ramp((j * edge + i) * lanes, lanes)], x),
            )

        def bordered(j: Index) -> Stmt:
            return self._apply(
                self.data_program,
                lambda i: tirx.BufferLoad(self.half, [ramp((edge * edge + i * edge + j) * lanes, lanes)]),
                lambda i, x: store(self.half, [ramp((j * edge + i) * lanes, lanes)], x),
            )

        def pixel(i: Index, j: Index) -> Stmt:
            at = [ramp((edge * edge + i * edge + j) * lanes, lanes)]
            y, x = i64(top) + i, i64(left) + j
            source = tirx.BufferLoad(image, [ramp(base + (i * self.in_w + j) * channels, lanes)])
            nothing = splat(tirx.const(0.0, "float32"), lanes)
            exists = tirx.all(y >= 0, y < self.in_h, x >= 0, x < self.in_w)
            return when(exists, store(self.half, at, source), store(self.half, at, nothing))

        gather = ranged("i", 0, edge, lambda i: ranged("j", 0, edge, lambda j: pixel(i, j)))
        border = seq(gather, ranged("j", 0, edge, bordered))
        return when(inside, ranged("j", 0, edge, direct), border)

    def _columns_of_data(self, to: Index) -> Stmt:
        """data = (half B) for one vector of channels, row by row."""
        edge, lanes = self.plan.edge, self.plan.lanes

        def row(i: Index) -> Stmt:
            return self._apply(
                self.data_program,
                lambda j: tirx.BufferLoad(self.half, [ramp((j * edge + i) * lanes, lanes)]),
                lambda j, x: store(self.data, [ramp(to + (i * edge + j) * self.plan.data_pitch, lanes)], x),
            )

        return ranged("i", 0, edge, row)

    def _apply(self, program, read, write) -> Stmt:
        """Load the program's inputs, run it, store its rows."""
        lanes = self.plan.lanes
        dtype = f"float32x{lanes}"
        names = [tirx.Var(f"x{k}", dtype) for k in range(program.inputs)]
        loads = [tirx.Bind(name, read(k)) for k, name in enumerate(names)]
        binds, rows = program.emit(names, lanes)
        return seq(*loads, *binds, *(write(k, x) for k, x in enumerate(rows)))

    # Products

    def _pass(self, first: Index, count: Index, number: Index) -> Stmt:
        """Products and output transform of the blocks of one pass, numbered over all parts."""
        plan = self.plan
        tiles = ceil_div(count, plan.rows)

        def position(p: Index) -> Stmt:
            return ranged(
                "b",
                0,
                plan.blocks,
                lambda b: bound_all(
                    ["u", "v", "m"],
                    [
                        ((number * plan.positions + p) * plan.blocks + b) * plan.panel,
                        p * plan.data_pitch,
                        p * plan.product_pitch + b * (plan.tiles * plan.width),
                    ],
                    lambda at: self._products(tiles, *at),
                ),
            )

        return seq(ranged("p", 0, plan.positions, position), self._outputs(first, count, number))

    def _products(self, tiles: Index, u: Index, v: Index, m: Index) -> Stmt:
        """Products of all rows of tiles with the panel at offset `u`; fetches the next panel into L2 meanwhile."""
        plan = self.plan
        lines = -(-plan.vectors * plan.lanes // LINE)
        # With few rows of tiles each has to fetch several lines a step.
        share = -(-lines // max(1, plan.tiles // plan.rows))

        def tile(r: Index) -> Stmt:
            acc = RegisterTile(plan.rows, plan.vectors, plan.lanes)

            def steps(at: list[Index]) -> Stmt:
                rows, ahead = at

                def step(k: Index) -> Stmt:
                    fetch = [prefetch_l2(self.operands.weights, ahead + (k * share + s) * LINE) for s in range(share)]
                    return seq(
                        *fetch,
                        acc.multiply_add(
                            lambda q: tirx.BufferLoad(self.data, [rows + q * plan.row_pitch + k]),
                            lambda c, lanes: tirx.BufferLoad(
                                self.operands.weights, [ramp(u + k * plan.width + c, lanes)]
                            ),
                        ),
                    )

                return ranged("k", 0, plan.channels, step)

            reduce = bound_all(
                ["rows", "ahead"],
                [v + r * (plan.rows * plan.row_pitch), u + plan.panel + r * (plan.channels * share * LINE)],
                steps,
            )
            save = bound("to", m + r * (plan.rows * plan.width), lambda to: acc.save(self.product, to))
            return seq(acc.declare(), acc.zero(), reduce, save)

        return ranged("r", 0, tiles, tile)

    # Output transform

    def _outputs(self, first: Index, count: Index, number: Index) -> Stmt:
        """Transform the products of one pass back, apply the epilogue and store."""
        plan = self.plan
        vectors = plan.blocks * plan.vectors
        start = number * vectors
        whole, rest = divmod(plan.out_channels, plan.lanes)
        exact = plan.block_count * plan.width == plan.out_channels

        def tile(t: Index) -> Stmt:
            return bound_all(
                ["batch", "row", "col"],
                self._locate(first + t),
                lambda at: seq(
                    ranged("q", 0, vectors if exact else minimum(vectors, whole - start), lambda q: vector(q, t, at)),
                    when(i64(start + vectors) > whole, vector(whole - start, t, at, rest)) if rest else None,
                ),
            )

        def vector(q: Index, t: Index, at: list[Index], valid: int = plan.lanes) -> Stmt:
            block, v = split_index(q, [plan.blocks, plan.vectors])
            source = (block * plan.tiles + t) * plan.width + v * plan.lanes
            return bound_all(
                ["from", "channel"],
                [source, (start + q) * plan.lanes],
                lambda z: seq(self._rows_of_product(z[0]), self._store_rows(at, z[1], valid)),
            )

        return ranged("t", 0, count, tile)

    def _rows_of_product(self, source: Index) -> Stmt:
        """half = A^T products for one vector of channels, column by column."""
        edge, m, lanes = self.plan.edge, self.plan.m, self.plan.lanes

        def column(j: Index) -> Stmt:
            return self._apply(
                self.output_program,
                lambda i: tirx.BufferLoad(
                    self.product, [ramp(source + (i * edge + j) * self.plan.product_pitch, lanes)]
                ),
                lambda i, x: store(self.half, [ramp((j * m + i) * lanes, lanes)], x),
            )

        return ranged("j", 0, edge, column)

    def _store_rows(self, at: list[Index], channel: Index, valid: int) -> Stmt:
        """Output rows (half A) of a tile: epilogue and store of `valid` channels of the pixels that exist."""
        m, lanes = self.plan.m, self.plan.lanes
        batch, row, col = at
        values = on_stack(m * lanes, "values")
        height = m if self.out_h % m == 0 else minimum(m, self.out_h - row)
        rolled = len(self.op.epilogue) >= ROLLED_EPILOGUE_STEPS or valid < lanes
        width = m if self.out_w % m == 0 else minimum(m, self.out_w - col)

        def one_row(i: Index) -> Stmt:
            transform = self._apply(
                self.output_program,
                lambda j: tirx.BufferLoad(self.half, [ramp((j * m + i) * lanes, lanes)]),
                lambda j, x: store(values, [ramp(j * lanes, lanes)], x),
            )
            if rolled:
                writes = [ranged("j", 0, width, lambda j: pixel(i, j))]
            else:
                # `width` is a number where all tiles are whole, or where there is a single one.
                known = isinstance(width, int)
                writes = [
                    pixel(i, j) if known else when(i64(width) > j, pixel(i, j)) for j in range(width if known else m)
                ]
            return seq(tirx.AllocBuffer(values), transform, *writes)

        def pixel(i: Index, j: Index) -> Stmt:
            def write(value: tirx.Expr, k: Index) -> Stmt:
                return self.operands.write(value, batch, row + i, col + j, channel + k)

            parts, begin = [], 0
            while begin < valid:
                size = min(lanes, 1 << ((valid - begin).bit_length() - 1))
                parts.append(
                    RegisterTile._lanes(values, j * lanes + begin, lambda x, k, b=begin: write(x, b + k), size)
                )
                begin += size
            return seq(*parts)

        return ranged("i", 0, height, one_row)
