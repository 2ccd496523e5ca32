; One step of decoding: a key is appended to a cache at a position that is data, then the query is scored against all keys
; up to it. Two PEs append half a row each; a barrier; then they score alternate tiles of four rows.
object "decode" target "mtia-300" hbm 2048 sram 0

origin o0 "/attention" "Attention"

kernel k0 "decode" grid 1x1x1x2 {
  param q0 "position" from 0 to 15
  tensor r0 in bytes 4 planes 0 4 4
  tensor r1 in bytes 32 planes 0 32 32
  tensor r2 in bytes 32 planes 0 32 32
  tensor r3 inout bytes 512 planes 0 512 512
  tensor r4 inout bytes 64 planes 0 64 64
  buffer b0 "row" local 16 x 1
  buffer b1 "query" local 32 x 1
  buffer b2 "keys" local 128 x 2
  buffer b3 "acc" bank 16 x 2
  buffer b4 "scores" local 32 x 2
  view v0 i32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 1:1)
  view v1 f32 global r2 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 4:1<8) p3:d4+4
  view v2 f32 local k4 offset 0 (1:4, 1:4, 1:4, 1:4, 4:1)
  view v3 f32 global r3 k4 offset 0 (1:0, 1:0, 1:0, 1:8<16, 4:1<8) p3:d4+4 q0:d3+1<+0
  view v4 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 8:1)
  view v5 f32 local k4 offset 0 (1:8, 1:8, 1:8, 1:8, 8:1)
  view v6 f32 global r3 k4 offset 0 (1:0, 4:8<1, 1:0, 1:0, 8:1<8) l0:d1+8 p3:d1+4 q0:d1+0<+1
  view v7 f32 local k4 offset 0 (1:32, 4:8, 1:8, 1:8, 8:1)
  view v8 f32 local k4 offset 0 (1:4, 1:4, 1:4, 1:4, 4:1)
  view v9 f32 global r4 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 4:1<1) l0:d4+8 p3:d4+4 q0:d4+0<+1
  view v10 f32 local k4 offset 0 (1:8, 1:8, 1:8, 1:8, 8:1)
  view v11 f32 global r4 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 8:1<16) p3:d4+8
  trip t0 1 max 2 q0*1/8
  constant c0 0x0
  code:
    ldp q0, v0
    fill b4+:v10, c0
    st b4-:v10, v11
    ld b0+:v2, v1
    st b0-:v2, v3
    bar cast=all
    ld b1+:v5, v4, cast=all
    loop t0, l0, stages=1
      ld b2+:v7, v6
      mm b3+:v8, b1:v5, b2-:v7, order=nk
      drain b4+:v8, b3-:v8
      st b4-:v8, v9
    end
    pop b1, n=1
    halt
}

entry e0 "main" {
  input "position" i32 (1) hbm:0
  input "query" f32 (8) hbm:64
  input "key" f32 (8) hbm:128
  input "cache" f32 (16, 8) hbm:512
  output "cache" f32 (16, 8) hbm:512
  output "scores" f32 (16) hbm:1024
  launch #0 k0 (hbm:0, hbm:64, hbm:128, hbm:512, hbm:1024) with (0) o0
  code:
    launch #0
    halt
}

weights 0 {
}
