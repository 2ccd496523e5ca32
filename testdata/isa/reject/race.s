; Two PEs store boxes that share a row.
; expect: race in launch 0 (kernel copy), instruction 1 `st b0-:v0, v1` of FI.store on PE [0, 0, 1, 0]: byte 128 of tensor r0 is written twice [/layer/Copy]
object "race" target "mtia-300" hbm 256 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x2x1 {
  tensor r0 out bytes 256 planes 0 256 256
  buffer b0 "x" local 256 x 2
  view v0 f32 local k4 offset 0 (1:40, 1:40, 1:40, 5:8, 8:1)
  view v1 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 5:8<8, 8:1<8) p2:d3+4
  constant c0 0x0
  code:
    fill b0+:v0, c0
    st b0-:v0, v1
    halt
}

entry e0 "main" {
  output "y" f32 (64) hbm:0
  launch #0 k0 (hbm:0) o0
  code:
    launch #0
    halt
}

weights 0 {
}
