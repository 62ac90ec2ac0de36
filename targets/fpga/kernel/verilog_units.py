"""Verilog that every kernel shares: memories, FIFOs, floating-point units. Latencies are those of schedule.py and
ops.py."""

MEMORIES = """\
// Constant tables are made of look-up tables; yosys and Vivado are told so in different words.
`ifdef YOSYS
`define KP_TABLE (* logic_block *)
`else
`define KP_TABLE (* rom_style = "distributed" *)
`endif
// One bank: a port to read (the datum LATENCY cycles after its address) and one to write.
module kp_ram #(parameter W = 8, D = 16, A = 4, LATENCY = 2, parameter STYLE = "block") (
  input clk, input ren, input [A-1:0] raddr, output [W-1:0] rdata, input we, input [A-1:0] waddr, input [W-1:0] wdata);
  (* ram_style = STYLE *) reg [W-1:0] mem [0:D-1];
  reg [W-1:0] q1, q2, q3;
  always @(posedge clk) begin
    if (we) mem[waddr] <= wdata;
    if (ren) begin q1 <= mem[raddr]; q2 <= q1; q3 <= q2; end
  end
  assign rdata = LATENCY == 1 ? q1 : LATENCY == 2 ? q2 : q3;
endmodule
// N cycles later, counting those in which ce is high.
module kp_delay #(parameter W = 8, N = 1) (input clk, input ce, input [W-1:0] d, output [W-1:0] q);
  reg [W*N-1:0] r;
  always @(posedge clk) if (ce) r <= {r, d};
  assign q = r[W*N-1:W*N-W];
endmodule
// The same for a flag, low after a reset.
module kp_flags #(parameter W = 1, N = 1) (input clk, input rst, input ce, input [W-1:0] d, output [W-1:0] q);
  reg [W*N-1:0] r;
  always @(posedge clk) if (rst) r <= 0; else if (ce) r <= {r, d};
  assign q = r[W*N-1:W*N-W];
endmodule
// A register: what is written can be read from the next cycle on.
module kp_register #(parameter W = 8) (input clk, output reg [W-1:0] rdata, input we, input [W-1:0] wdata);
  always @(posedge clk) if (we) rdata <= wdata;
endmodule
// A FIFO whose oldest token is on `head`; a token can be read from the cycle after it was written.
module kp_fifo #(parameter W = 8, D = 2, A = 1) (
  input clk, input rst, input push, input [W-1:0] tail, output full, input pop, output [W-1:0] head, output empty);
  (* ram_style = "distributed" *) reg [W-1:0] mem [0:D-1];
  reg [A-1:0] r, w; reg [A:0] count;
  assign full = count == D, empty = count == 0, head = mem[r];
  always @(posedge clk) begin
    if (push) begin mem[w] <= tail; w <= w == D - 1 ? 0 : w + 1; end
    if (pop) r <= r == D - 1 ? 0 : r + 1;
    if (push && !pop) count <= count + 1;
    if (pop && !push) count <= count - 1;
    if (rst) begin r <= 0; w <= 0; count <= 0; end
  end
endmodule
"""

FLOATS = """\
// Product of two floats with E bits of exponent and F of fraction: 3 stages, to nearest even, subnormals are zeros.
module kp_fmul #(parameter E = 8, F = 23) (input clk, input ce, input [E+F:0] a, b, output reg [E+F:0] y);
  /*verilator no_inline_module*/
  localparam signed [E+1:0] BIAS = (1 << (E - 1)) - 1, TOP = (1 << E) - 1;
  wire za = a[E+F-1:F] == 0, zb = b[E+F-1:F] == 0, ta = &a[E+F-1:F], tb = &b[E+F-1:F];
  wire na = ta && |a[F-1:0], nb = tb && |b[F-1:0];
  reg s1, z1, i1, n1, s2, z2, i2, n2; reg signed [E+1:0] e1, e2; reg [2*F+1:0] p1, p2;
  wire up = p2[F] && (|p2[F-1:0] || p2[F+1]);
  wire [F+1:0] m = {1'b0, p2[2*F+1:F+1]} + {{(F+1){1'b0}}, up};
  wire signed [E+1:0] e = m[F+1] ? e2 + 1 : e2;
  always @(posedge clk) if (ce) begin
    s1 <= a[E+F] ^ b[E+F]; z1 <= za || zb; i1 <= ta || tb; n1 <= na || nb || (ta && zb) || (tb && za);
    e1 <= $signed({2'b0, a[E+F-1:F]}) + $signed({2'b0, b[E+F-1:F]}) - BIAS;
    p1 <= {1'b1, a[F-1:0]} * {1'b1, b[F-1:0]};
    s2 <= s1; z2 <= z1; i2 <= i1; n2 <= n1;
    e2 <= p1[2*F+1] ? e1 + 1 : e1; p2 <= p1[2*F+1] ? p1 : p1 << 1;
    y <= n2 ? {1'b0, {E{1'b1}}, 1'b1, {(F-1){1'b0}}} : i2 || (!z2 && e >= TOP) ? {s2, {E{1'b1}}, {F{1'b0}}}
       : z2 || e <= 0 ? {s2, {(E+F){1'b0}}} : {s2, e[E-1:0], m[F-1:0]};
  end
endmodule
// Sum of two floats: 5 stages (order, align, add, normalise, round), to nearest even, subnormals are zeros.
module kp_fadd #(parameter E = 8, F = 23) (input clk, input ce, input [E+F:0] a, b, output reg [E+F:0] y);
  /*verilator no_inline_module*/
  localparam signed [E+1:0] TOP = (1 << E) - 1;
  localparam M = F + 4; // a significand with three bits below it
  wire [E+F:0] fa = a[E+F-1:F] == 0 ? {a[E+F], {(E+F){1'b0}}} : a, fb = b[E+F-1:F] == 0 ? {b[E+F], {(E+F){1'b0}}} : b;
  wire order = fa[E+F-1:0] >= fb[E+F-1:0];
  wire [E+F:0] hi = order ? fa : fb, lo = order ? fb : fa;
  reg [E+F:0] h1, l1; reg [E-1:0] d1; reg n1;
  wire [M-1:0] ml = {|l1[E+F-1:F], l1[F-1:0], 3'b0};
  wire [2*M-1:0] shifted = {ml, {M{1'b0}}} >> (d1 > M ? M : d1);
  reg s2, c2, u2, i2, n2; reg [E-1:0] e2; reg [M-1:0] h2, l2;
  reg s3, c3, i3, n3; reg [E-1:0] e3; reg [M:0] m3;
  reg s4, c4, i4, n4, z4; reg signed [E+1:0] e4; reg [M-1:0] m4;
  // Zeros above the highest one are shifted out, 16, 8, 4, 2 and 1 at a time.
  wire [31:0] x0 = {m3[M-1:0], {(32-M){1'b0}}}, x1 = x0[31:16] == 0 ? x0 << 16 : x0, x2 = x1[31:24] == 0 ? x1 << 8 : x1;
  wire [31:0] x3 = x2[31:28] == 0 ? x2 << 4 : x2, x4 = x3[31:30] == 0 ? x3 << 2 : x3, x5 = x4[31] ? x4 : x4 << 1;
  wire [4:0] zeros = {x0[31:16] == 0, x1[31:24] == 0, x2[31:28] == 0, x3[31:30] == 0, !x4[31]};
  wire up = m4[2] && (m4[1] || m4[0] || m4[3]);
  wire [F+1:0] m = {1'b0, m4[M-1:3]} + {{(F+1){1'b0}}, up};
  wire signed [E+1:0] e = m[F+1] ? e4 + 1 : e4;
  always @(posedge clk) if (ce) begin
    h1 <= hi; l1 <= lo; d1 <= hi[E+F-1:F] - lo[E+F-1:F];
    n1 <= (&hi[E+F-1:F] && |hi[F-1:0]) || (&lo[E+F-1:F] && (|lo[F-1:0] || (hi[E+F] != lo[E+F])));
    s2 <= h1[E+F]; c2 <= h1[E+F] && l1[E+F]; u2 <= h1[E+F] != l1[E+F]; i2 <= &h1[E+F-1:F]; n2 <= n1;
    e2 <= h1[E+F-1:F]; h2 <= {|h1[E+F-1:F], h1[F-1:0], 3'b0};
    l2 <= {shifted[2*M-1:M+1], shifted[M] || |shifted[M-1:0]};
    s3 <= s2; c3 <= c2; i3 <= i2; n3 <= n2; e3 <= e2; m3 <= u2 ? {1'b0, h2} - {1'b0, l2} : {1'b0, h2} + {1'b0, l2};
    s4 <= s3; c4 <= c3; i4 <= i3; n4 <= n3; z4 <= m3 == 0;
    m4 <= m3[M] ? {m3[M:2], m3[1] || m3[0]} : x5[31:32-M];
    e4 <= m3[M] ? $signed({2'b0, e3}) + 1 : $signed({2'b0, e3}) - $signed({1'b0, zeros});
    y <= n4 ? {1'b0, {E{1'b1}}, 1'b1, {(F-1){1'b0}}} : i4 || (!z4 && e >= TOP) ? {s4, {E{1'b1}}, {F{1'b0}}}
       : z4 ? {c4, {(E+F){1'b0}}} : e <= 0 ? {s4, {(E+F){1'b0}}} : {s4, e[E-1:0], m[F-1:0]};
  end
endmodule
// Whether a > b, and whether they are ordered at all (neither is NaN).
module kp_fcompare #(parameter E = 8, F = 23) (input [E+F:0] a, b, output gt, output eq, output ordered);
  wire zero = a[E+F-1:0] == 0 && b[E+F-1:0] == 0;
  assign ordered = !(&a[E+F-1:F] && |a[F-1:0]) && !(&b[E+F-1:F] && |b[F-1:0]);
  assign eq = ordered && (zero || a == b);
  wire above = a[E+F-1:0] > b[E+F-1:0], beneath = a[E+F-1:0] < b[E+F-1:0];
  assign gt = ordered && !zero && (a[E+F] != b[E+F] ? b[E+F] : a[E+F] ? beneath : above);
endmodule
"""

UNITS = MEMORIES + FLOATS
