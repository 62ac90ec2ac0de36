"""The loops of a direct NHWC convolution: work items over threads, inside them register tiles."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import For, ForKind, Stmt

from ...shared.conv_operands import Operands
from ...shared.conv_shape import ConvShape
from ...shared.index_math import (
    bound_all,
    ceil_div,
    floor_div,
    floor_mod,
    minimum,
    nothing,
    prefetch_l2,
    ramp,
    ranged,
    split_index,
    when,
)
from ...shared.tir_loops import Index, i64, local, seq, store
from .conv_borders import Borders, border_runs, kernel_range
from .cpu_costs import EVERYTHING
from .packing import BlockedWeights
from .stage import Stage
from .tile_builder import RegisterTile


@dataclass(frozen=True)
class Blocking:
    """How a direct convolution is cut into work items and tiles.

    A work item computes `rows` output rows x `cols` tiles of `tile` pixels x `oc_blocks` blocks of output channels.
    With `staged` it first copies its input into a private buffer, padding included, whose pixels are `pitch` floats
    apart. With `ahead` "weights", while tiles use one panel of weights (a block's, or a chunk's of it) they prefetch
    the next into L2; with "data", the input of a pointwise convolution's next tile.
    """

    tile: int
    rows: int
    cols: int
    oc_blocks: int
    staged: bool
    pitch: int
    parallel: bool
    ahead: str = ""


@dataclass(frozen=True)
class _Item:
    """A work item: its group and image, first output row, number of rows, and first tile within a row."""

    group: Index
    batch: Index
    row: Index
    rows: Index
    tile: Index


@dataclass(frozen=True)
class Pass:
    """One pass over the pixels of an item for one block of output channels and one chunk of input channels.

    `weights` is the offset of the block's weights, `channel` its first output channel, `vectors` its width and
    `channels` how many of its channels exist. `sums` holds the results of earlier chunks; only the `last` chunk's pass
    stores.
    """

    weights: Index
    channel: Index
    vectors: int
    channels: int
    chunk: Index = 0
    sums: tirx.Buffer | None = None
    last: bool = True


class DirectNest:
    """Generates the kernel of one direct convolution; see `Blocking` for the meaning of its knobs."""

    def __init__(
        self, operands: Operands, conv: ConvShape, weights: BlockedWeights, blocking: Blocking, weights_at: Index = 0
    ):
        self.operands, self.conv, self.weights, self.blocking = operands, conv, weights, blocking
        self.weights_at = weights_at
        self.image = self._image()
        size = operands.size
        self.batch = size(conv.batch)
        self.in_h, self.in_w = size(conv.size[0]), size(conv.size[1])
        self.out_h, self.out_w = size(conv.out_size[0]), size(conv.out_size[1])
        self.whole_tiles = floor_div(self.out_w, blocking.tile)
        self.tiles = ceil_div(self.out_w, blocking.tile)
        # Output pixels of a work item's row, and floats between two pixels, rows of the input that is read.
        self.row_pixels = (
            int(minimum(self.out_w, blocking.cols * blocking.tile)) if conv.is_static else blocking.cols * blocking.tile
        )
        self.stage = self._stage() if blocking.staged else None
        self.pitch = self.stage.pitch if self.stage else conv.channels
        self.row_pitch = self.stage.row_pitch if self.stage else self.in_w * conv.channels
        self.source = self.stage.buffer if self.stage else self.operands.data

    def _image(self) -> ConvShape:
        """The convolution in the elements that the data have in memory."""
        return self.conv

    def _stage(self) -> Stage:
        return Stage(self.conv, self.blocking.rows, self.row_pixels, self.blocking.pitch)

    def body(self) -> Stmt:
        """The loops over all work items."""
        b = self.blocking
        extents = [
            self.conv.groups,
            ceil_div(self.weights.blocks, b.oc_blocks),
            self.batch,
            ceil_div(self.out_h, b.rows),
            1 if b.cols >= EVERYTHING else ceil_div(self.tiles, b.cols),
        ]
        items: Index = 1
        for extent in extents:
            items = extent * items
        if isinstance(items, int) and items == 1:
            return self._item([0] * len(extents))
        var = tirx.Var("item", "int64")
        kind = ForKind.PARALLEL if b.parallel else ForKind.SERIAL
        names = ["group", "oc_block", "batch", "row_block", "col_block"]
        return For(var, i64(0), i64(items), kind, bound_all(names, split_index(var, extents), self._item))

    def _item(self, coords: list[Index]) -> Stmt:
        group, oc, batch, row_block, col_block = coords
        b = self.blocking
        row = row_block * b.rows
        even = isinstance(self.out_h, int) and self.out_h % b.rows == 0
        rows = b.rows if even else minimum(b.rows, self.out_h - row)
        item = _Item(group, batch, row, rows, col_block * b.cols)
        if self.stage is None:
            return self._channel_blocks(item, oc)
        offset = batch * self.in_h * self.in_w * self.image.channels + group * self.image.group_in
        first = (
            row * self.conv.stride[0] - self.conv.pad[0],
            item.tile * b.tile * self.conv.stride[1] - self.conv.pad[1],
        )
        fill = self.stage.fill(self.operands.data, offset, (self.in_h, self.in_w), first, rows)
        return seq(tirx.AllocBuffer(self.stage.buffer), fill, self._channel_blocks(item, oc))

    def _channel_blocks(self, item: _Item, oc: Index) -> Stmt:
        """All blocks of output channels of an item; an incomplete last one has a tile of its own width."""
        w, count = self.weights, self.blocking.oc_blocks
        first = oc * count
        base = item.group * w.group_size + self.weights_at
        channel = item.group * w.group_out

        def full(j: Index) -> Stmt:
            return self._chunks(
                item, Pass(base + j * (w.block * w.depth), channel + j * w.block, w.block // w.lanes, w.block)
            )

        if w.blocks <= count:
            whole: Index = w.full
        else:
            whole = count if not w.tail and w.full % count == 0 else minimum(count, w.full - first)
        blocks = ranged("oc", first, whole, full) if w.full else None
        if not w.tail:
            return blocks
        start = w.full * w.block
        tail = self._chunks(item, Pass(base + start * w.depth, channel + start, w.tail // w.lanes, w.group_out - start))
        return seq(blocks, tail if w.blocks <= count else when(first + count >= w.blocks, tail))

    def _chunks(self, item: _Item, block: Pass) -> Stmt:
        """All pixels of an item for one block of channels, in as many passes as there are chunks of input channels.

        Between passes the sums wait in a buffer, so that a chunk's weights stay in cache while all pixels use them.
        """
        chunks = self.weights.chunks
        if chunks == 1:
            return self._rows(item, block)
        size = self.blocking.rows * self.row_pixels * block.vectors * self.weights.lanes
        sums = local(size, "float32", "sums")
        clear = ranged("i", 0, size, lambda i: store(sums, [i], tirx.const(0.0, "float32")))

        def one(chunk: Index, last: bool) -> Stmt:
            return self._rows(
                item, Pass(block.weights, block.channel, block.vectors, block.channels, chunk, sums, last)
            )

        middle = ranged("ic", 0, chunks - 1, lambda chunk: one(chunk, False))
        return seq(tirx.AllocBuffer(sums), clear, middle, one(chunks - 1, True))

    def _rows(self, item: _Item, work: Pass) -> Stmt:
        return ranged("y", 0, item.rows, lambda y: self._columns(item, y, work))

    def _columns(self, item: _Item, y: Index, work: Pass) -> Stmt:
        """One output row of an item: runs of equal tiles, then what is left."""
        b = self.blocking
        if self.conv.padded[1] and self.stage is None:
            runs = border_runs(self.conv, b.tile)
            return seq(
                *(
                    ranged(
                        "t",
                        0,
                        count,
                        lambda t, s=start, n=pixels, e=edges: self._tile(
                            item, y, s + t * n, n, e, work, s // b.tile + t
                        ),
                    )
                    for start, count, pixels, edges in runs
                )
            )
        if self.stage is not None and not isinstance(self.out_w, int):
            # The copy is as wide as whole tiles: pixels beyond the row are computed, too, but not stored.
            count = minimum(b.cols, self.tiles - item.tile)
            return ranged("t", item.tile, count, lambda t: self._tile(item, y, t * b.tile, b.tile, None, work, t, True))
        blocked = b.cols < EVERYTHING and not (isinstance(self.tiles, int) and self.tiles <= b.cols)
        even = isinstance(self.whole_tiles, int) and self.whole_tiles == self.tiles and self.tiles % b.cols == 0
        count = self.whole_tiles if not blocked else b.cols if even else minimum(b.cols, self.whole_tiles - item.tile)
        whole = None
        if not (isinstance(count, int) and count == 0):
            whole = ranged("t", item.tile, count, lambda t: self._tile(item, y, t * b.tile, b.tile, None, work, t))
        rest = self._remainder(item, y, work)
        if rest is not None and blocked:
            rest = when(item.tile + b.cols >= self.tiles, rest)
        return seq(whole, rest)

    def _remainder(self, item: _Item, y: Index, work: Pass) -> Stmt | None:
        """The pixels of a row behind its whole tiles.

        In a row of unknown width they are the end of a tile that overlaps the one before and computes some pixels
        again; in a row shorter than a tile all pixels are computed one by one.
        """
        size, number = self.blocking.tile, self.whole_tiles
        if isinstance(self.out_w, int):
            rest = self.out_w - number * size
            return self._tile(item, y, number * size, rest, None, work, number) if rest else None
        if size == 1:
            return None
        last = self._tile(item, y, self.out_w - size, size, None, work, number)
        single = ranged("x", 0, self.out_w, lambda x: self._tile(item, y, x, 1, None, work, number))
        return when(floor_mod(self.out_w, size) > 0, when(self.out_w >= size, last, single))

    def _tile(
        self,
        item: _Item,
        y: Index,
        col: Index,
        pixels: int,
        edges: Borders,
        work: Pass,
        number: Index,
        cut: bool = False,
    ) -> Stmt:
        """A register tile: `pixels` output pixels from column `col` of row `y` of the item, its `number`th.

        With `cut`, pixels beyond the end of the row are not stored.
        """
        tile = self.new_tile(pixels, work.vectors)
        slot = (y * self.row_pixels + (col - item.tile * self.blocking.tile)) * tile.width
        begin = self.clear(tile, work) if work.sums is None else tile.load(work.sums, slot)
        if work.last:
            valid = self.out_w - col if cut else None
            end = self.finish(tile, item.batch, item.row + y, col, work, valid)
        else:
            end = tile.save(work.sums, slot)
        return seq(tile.declare(), begin, self._reduce(tile, item, y, col, edges, work, number), end)

    def new_tile(self, pixels: int, vectors: int) -> RegisterTile:
        """The accumulators of a tile."""
        return RegisterTile(pixels, vectors, self.weights.lanes)

    def clear(self, tile: RegisterTile, work: Pass) -> Stmt:
        """What sums begin with."""
        return tile.zero()

    def multiply_add(self, tile: RegisterTile, x: Index, step: Index, w: Index, begin: int, end: int | None) -> Stmt:
        """Add the products of the data at x, x + step, ... (a pixel each) with the vectors of weights at w."""
        return tile.multiply_add(
            lambda p: tirx.BufferLoad(self.source, [x + p * step]),
            lambda v, lanes: tirx.BufferLoad(self.operands.weights, [ramp(w + v, lanes)]),
            begin,
            end,
        )

    def finish(self, tile: RegisterTile, batch: Index, row: Index, col: Index, work: Pass, valid: Index | None) -> Stmt:
        """Epilogue and store of a finished tile, of its first `valid` pixels if that is not None."""

        def write(value: tirx.Expr, p: Index, c: Index) -> Stmt:
            return self.operands.write(value, batch, row, col + p, work.channel + c)

        return tile.finish(write, work.channels, len(self.operands.op.epilogue), valid)

    def _reduce(
        self, tile: RegisterTile, item: _Item, y: Index, col: Index, edges: Borders, work: Pass, number: Index
    ) -> Stmt:
        """Accumulate the tile over the kernel's rows; rows outside the image are left out."""
        conv = self.conv
        kernel_h, chunk = conv.kernel[0], conv.group_in // self.weights.chunks
        if self.stage is not None:
            low, count = 0, kernel_h
            base = y * (conv.stride[0] * self.row_pitch) + (col - item.tile * self.blocking.tile) * (
                conv.stride[1] * self.pitch
            )
        else:
            top = (item.row + y) * conv.stride[0] - conv.pad[0]
            low, count = 0, kernel_h
            if conv.padded[0]:
                low, count = kernel_range(top, self.in_h, kernel_h, conv.dilation[0])
            base = (item.batch * self.in_h + top) * self.row_pitch + (col * conv.stride[1] - conv.pad[1]) * self.pitch
            base = base + item.group * conv.group_in
        base = base + work.chunk * chunk
        width = work.vectors * self.weights.lanes
        weights = work.weights + work.chunk * (chunk * kernel_h * conv.kernel[1] * width)

        prefetch = (
            self._prefetches(work, chunk * kernel_h * conv.kernel[1], y, number)
            if self.blocking.ahead == "weights"
            else []
        )

        def row(kh: Index) -> Stmt:
            at = base + kh * (conv.dilation[0] * self.row_pitch)
            return self._reduce_row(tile, at, weights + kh * (conv.kernel[1] * chunk * width), edges, prefetch)

        return ranged("kh", low, count, row)

    def _prefetches(self, work: Pass, depth: int, y: Index, number: Index) -> list[Index]:
        """Which elements of the next panel (relative to a step's weights) the tiles prefetch in every step.

        A panel follows the one in use in memory. Each tile of a pass takes one cache line of every step's in turn, or
        several if the pass has fewer tiles than a step has lines.
        """
        per_row = self.tiles if isinstance(self.tiles, int) and self.tiles <= self.blocking.cols else self.blocking.cols
        rows = self.out_h if isinstance(self.out_h, int) else self.blocking.rows
        passes = min(rows, self.blocking.rows) * per_row
        each = -(-work.vectors // passes)
        turn = (y * per_row + number) * each
        panel = depth * work.vectors * self.weights.lanes
        return [panel + floor_mod(turn + i, work.vectors) * self.weights.lanes for i in range(each)]

    def _reduce_row(
        self, tile: RegisterTile, base: Index, weights: Index, edges: Borders, prefetch: list[Index]
    ) -> Stmt:
        """Accumulate the tile over one kernel row; `base` and `weights` are the offsets of its first operands."""
        conv, chunk = self.conv, self.conv.group_in // self.weights.chunks
        step = conv.stride[1] * self.pitch

        def reduce(offset: Index, length: int, at: Index, begin: int = 0, end: int | None = None) -> Stmt:
            def multiply_add(k: Index) -> Stmt:
                x, w = base + offset + k, weights + (at + k) * tile.width
                update = self.multiply_add(tile, x, step, w, begin, end)
                if self.blocking.ahead == "data" and conv.kernel == (1, 1) and step == self.pitch == chunk:
                    # The next tile's pixels are contiguous: as many elements a step as the tile has pixels cover them.
                    ahead = prefetch_l2(self.source, base + tile.pixels * (step + k))
                    return seq(ahead, update)
                return seq(*(prefetch_l2(self.operands.weights, w + p) for p in prefetch), update)

            return ranged("k", 0, length, multiply_add)

        kernel_w = conv.kernel[1]
        if edges is not None:
            columns = [
                reduce(kw * conv.dilation[1] * self.pitch, chunk, kw * chunk, low, high)
                for kw, (low, high) in enumerate(edges)
                if low < high
            ]
            return seq(*columns) if columns else nothing()
        if conv.dilation[1] == 1 and chunk == self.pitch:
            # Neighbouring pixels and channels follow each other in the data as in the weights: one loop for both.
            return reduce(0, kernel_w * chunk, 0)
        return ranged("kw", 0, kernel_w, lambda kw: reduce(kw * (conv.dilation[1] * self.pitch), chunk, kw * chunk))
