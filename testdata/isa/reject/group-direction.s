; Groups run down the columns when written, along the rows when read.
; expect: format-mismatch in launch 0 (kernel copy), instruction 2 `run p0` of SE on PE [0, 0, 0, 0]: the slot's groups run at distance 32, the view's at 1 [/layer/Copy]
object "group-direction" target "mtia-300" hbm 512 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 in bytes 256 planes 0 256 256
  tensor r1 out bytes 256 planes 0 256 256
  buffer b0 "x" local 2048 x 1
  buffer b1 "y" local 256 x 1
  view v0 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v1 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v2 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  view v3 mxfp8 local k3 offset 0 (1:1024, 1:1024, 1:1024, 32:32, 32:1)
  view v4 mxfp8 local k4 offset 0 (1:1024, 1:1024, 1:1024, 32:32, 32:1)
  constant c0 0x0
  program p0 "take" domain v4 parallel 5 {
    stream s0 b0-:v4 floor
    body:
      load.f32 r0, s0
  }
  code:
    fill b0+:v3, c0
    fill b1+:v2, c0
    run p0
    st b1-:v2, v1
    halt
}

entry e0 "main" {
  input "x" f32 (64) hbm:0
  output "y" f32 (64) hbm:256
  launch #0 k0 (hbm:0, hbm:256) o0
  code:
    launch #0
    halt
}

weights 0 {
}
