; From two rows on, the loop writes the same bytes again.
; expect: race in launch 0 (kernel k), instruction 3 `st b0-:v1, v2` of FI.store on PE [0, 0, 0, 0]: byte 0 of tensor r1 is written twice [/layer/Node]
object "parameter-written-twice" target "mtia-300" hbm 1024 sram 0

origin o0 "/layer/Node" "Node"

kernel k0 "k" grid 1x1x1x1 {
  param q0 "rows" from 0 to 2
  tensor r0 in bytes 4 planes 0 4 4
  tensor r1 out bytes 256 planes 0 256 256
  buffer b0 "x" local 256 x 1
  view v0 i32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 1:1)
  view v1 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  view v2 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v3 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 8:8<9, 8:1<8) q0:d3+1<+0
  view v4 f32 local k4 offset 0 (1:64, 1:64, 1:64, 8:8, 8:1)
  trip t0 0 max 8 q0*1/1
  trip t1 2 max 2
  constant c0 0x0
  code:
    ldp q0, v0
    loop t0, l0, stages=1
      fill b0+:v1, c0
      st b0-:v1, v2
    end
    halt
}

entry e0 "main" {
  input "n" i32 (1) hbm:512
  output "y" f32 (64) hbm:0
  launch #0 k0 (hbm:512, hbm:0) with (0) o0
  code:
    launch #0
    halt
}

weights 0 {
}
