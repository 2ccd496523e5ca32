; A program updates a slot and reads it as another stream.
; expect: slot-conflict in launch 0 (kernel copy), instruction 1 `run p0` of SE on PE [0, 0, 0, 0]: a slot of buffer x is written and named twice [/layer/Copy]
object "slot-conflict" target "mtia-300" hbm 512 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 in bytes 256 planes 0 256 256
  tensor r1 out bytes 256 planes 0 256 256
  buffer b0 "x" local 256 x 2
  view v0 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v1 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v2 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  program p0 "square" domain v2 parallel 5 {
    stream s0 b0!:v2 floor
    stream s1 b0:v2 floor
    body:
      load.f32 r0, s1
      store.f32 s0, r0
  }
  code:
    ld b0+:v2, v0
    run p0
    st b0-:v2, v1
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
